// The text of a run: tokenizer and packed sources, as the configuration names them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/sampler.h"
#include "tokenizer/tokenizer.h"
#include "train/config.h"

namespace sluice {

/// Held-out text with its name.
struct HeldOut {
  std::string name;
  TokenRange range;
};

struct Corpus {
  std::vector<SamplerSource> sources;
  std::vector<HeldOut> held_out;
  int64_t tokens = 0;              // of all sources
  bool has_chats = false;          // some of the tokens are no targets: they are a user's
  std::vector<std::string> notes;  // one line per source: what was packed and repaired
};

/// One entry of `data` or `eval`: "PATTERN" or "PATTERN=WEIGHT" (weight 0: by size).
struct DataEntry {
  std::string pattern;
  double weight = 0;
};
DataEntry parse_data_entry(const std::string& text);

/// The folder of the run's tokenizer: config.tokenizer, that of init_from, or OUT/tokenizer, where one of vocab_size
/// tokens is trained on the data unless it is there already. Throws Error.
fs::path prepare_tokenizer(const TrainConfig& config);

/// Packs (or opens, where an entry is a folder of shards) all sources and held-out texts. Throws Error.
Corpus load_corpus(const TrainConfig& config, const Tokenizer& tokenizer, int threads);

}  // namespace sluice
