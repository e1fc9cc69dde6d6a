#include "train/corpus.h"

#include <cmath>

#include "data/pack.h"
#include "model/checkpoint.h"
#include "tokenizer/bpe_train.h"

namespace sluice {
namespace {

std::vector<fs::path> files_of(const DataEntry& entry) {
  return find_data_files(std::vector<std::string>{entry.pattern});
}

/// Files of the entries that are not packed.
std::vector<fs::path> text_files(const std::vector<std::string>& entries) {
  std::vector<fs::path> files;
  for (const std::string& text : entries) {
    const DataEntry entry = parse_data_entry(text);
    if (fs::is_directory(entry.pattern) &&
        (TokenSet::exists(entry.pattern, "train") || TokenSet::exists(entry.pattern, "eval")))
      continue;
    for (const fs::path& file : files_of(entry)) files.push_back(file);
  }
  return files;
}

std::optional<std::string> split_at(const TrainConfig& c) {
  return c.split_blank_lines ? std::optional<std::string>("") : std::nullopt;
}

TokenRange load_source(const DataEntry& entry, const TrainConfig& c, const Tokenizer& tokenizer, bool train,
                       int threads, std::vector<std::string>& notes) {
  const std::string split = train ? "train" : "eval";
  if (fs::is_directory(entry.pattern) && TokenSet::exists(entry.pattern, split)) {
    auto set = std::make_shared<TokenSet>(TokenSet::open(entry.pattern, split));
    if (set->info().tokenizer != tokenizer_fingerprint(tokenizer))
      fail("{}: packed with another tokenizer than the run's", entry.pattern);
    if (set->info().vocab != tokenizer.vocab_size())
      fail("{}: vocabulary: expected the tokenizer's {}, found {}", entry.pattern, tokenizer.vocab_size(),
           set->info().vocab);
    notes.push_back(fmt::format("{}: {} packed tokens", entry.pattern, set->tokens()));
    return TokenRange(std::move(set));
  }
  PackOptions options;
  options.fim_rate = train ? c.fim_rate : 0;
  options.seed = static_cast<uint64_t>(c.seed);
  options.threads = threads;
  options.split_at = split_at(c);
  PackSummary summary;
  auto set = std::make_shared<TokenSet>(pack_to_memory(files_of(entry), tokenizer, options, &summary));
  notes.push_back(fmt::format("{}: {}", entry.pattern, format_summary(summary)));
  return TokenRange(std::move(set));
}

}  // namespace

DataEntry parse_data_entry(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == std::string::npos || fs::exists(text)) return {text, 0};
  char* end = nullptr;
  const double weight = std::strtod(text.c_str() + at + 1, &end);
  if (*end != '\0' || end == text.c_str() + at + 1 || !(weight > 0) || !std::isfinite(weight))
    fail("data: {}: expected PATTERN or PATTERN=WEIGHT with a weight above 0", text);
  return {text.substr(0, at), weight};
}

fs::path prepare_tokenizer(const TrainConfig& c) {
  if (!c.tokenizer.empty()) return c.tokenizer;
  if (!c.init_from.empty()) return resolve_checkpoint(c.init_from);
  const fs::path folder = fs::path(c.out) / "tokenizer";
  if (fs::exists(folder / "tokenizer_config.json")) return folder;
  BpeTrainer trainer;
  for (const std::string& text : c.data) {
    const DataEntry entry = parse_data_entry(text);
    if (fs::is_directory(entry.pattern) && TokenSet::exists(entry.pattern, "train"))
      fail("tokenizer: expected the tokenizer that {} was packed with", entry.pattern);
    for (const fs::path& file : files_of(entry)) {
      DocumentReader reader(file, split_at(c));
      for (Piece piece; reader.next(piece);) trainer.add_text(piece.text);
    }
  }
  fs::create_directories(folder);
  TokenizerConfig config = trained_tokenizer_config();
  config.chat_template.clear();  // training on chats brings it back: a model is asked in the form that it has learned
  save_tokenizer(folder, trainer.train(static_cast<int32_t>(c.vocab_size)), config);
  return folder;
}

Corpus load_corpus(const TrainConfig& c, const Tokenizer& tokenizer, int threads) {
  check_held_out({text_files(c.data), text_files(c.eval)});
  Corpus corpus;
  for (const std::string& text : c.data) {
    const DataEntry entry = parse_data_entry(text);
    corpus.sources.push_back({load_source(entry, c, tokenizer, true, threads, corpus.notes), entry.weight});
  }
  for (const std::string& text : c.eval) {
    const DataEntry entry = parse_data_entry(text);
    corpus.held_out.push_back(
        {fs::path(entry.pattern).stem().string(), load_source(entry, c, tokenizer, false, threads, corpus.notes)});
  }
  if (c.eval.empty() && c.eval_fraction > 0)
    for (size_t i = 0; i < c.data.size(); ++i)
      corpus.held_out.push_back({fs::path(parse_data_entry(c.data[i]).pattern).stem().string(),
                                 hold_out(corpus.sources[i].range, c.eval_fraction)});
  for (const SamplerSource& s : corpus.sources) {
    corpus.tokens += s.range.size();
    corpus.has_chats |= s.range.set->target_tokens() < s.range.set->tokens();
  }
  return corpus;
}

}  // namespace sluice
