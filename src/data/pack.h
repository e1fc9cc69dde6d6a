// Files -> packed tokens, in memory or in shards: reads, repairs, tokenises with several threads, applies FIM.
// The result depends on the files' bytes, the tokenizer and the options alone, never on the number of threads.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/documents.h"
#include "data/token_set.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

struct PackOptions {
  /// Share of the documents turned into fill-in-the-middle (specification 7.1): `fim_begin prefix fim_hole suffix
  /// fim_end middle eos`, cut at two random characters. Chats and documents above kPieceBytes stay as they are.
  double fim_rate = 0;
  uint64_t seed = 0;                        // of FIM
  int threads = 1;                          // for tokenising
  std::optional<std::string> split_at;      // see DocumentReader
  int64_t shard_tokens = int64_t{1} << 25;  // a shard ends after the piece that reaches this
  /// Called now and then with the bytes of files done and their total.
  std::function<void(int64_t done, int64_t total)> progress;
};

/// What was packed and what was repaired.
struct PackSummary {
  int64_t files = 0, documents = 0, chats = 0, tokens = 0, text_bytes = 0;
  int64_t fim_documents = 0;
  ReaderCounts reader;
};

/// One line: "3 files, 12 documents, 1,234,567 tokens (4.12 bytes each); repaired: 2 ill-formed UTF-8 sequences, ...".
std::string format_summary(const PackSummary& summary);

/// Packs `files` in memory. `summary` may be null. Throws Error naming the file (and line) that cannot be read, when
/// there is no text in them, when FIM or a chat needs a token that the tokenizer lacks.
TokenSet pack_to_memory(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const PackOptions& options,
                        PackSummary* summary);

/// What goes into a folder of shards.
struct PackFiles {
  std::vector<fs::path> train;
  std::vector<fs::path> eval;  // held out: split "eval", without FIM; may be empty
};

struct FolderSummary {
  PackSummary train, eval;
};

/// Packs `files` into shards in `folder`, which must not exist or be empty: they are written to "<folder>.partial",
/// which is renamed when all is done (what a killed run left there is removed first). One shard is held in memory.
/// Throws Error as pack_to_memory, when a file is in both splits, and when writing fails.
FolderSummary pack_to_folder(const PackFiles& files, const Tokenizer& tokenizer, const PackOptions& options,
                             const fs::path& folder);

/// Throws Error naming a file that is in both lists: training on held-out data makes its loss meaningless.
void check_held_out(const PackFiles& files);

}  // namespace sluice
