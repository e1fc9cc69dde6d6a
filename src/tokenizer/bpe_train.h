// Training of a byte-level BPE tokenizer with DeepSeek-V3's pre-tokenizer and, in small, its layout of ids.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>

#include "formats/tokenizer_json.h"

namespace sluice {

/// Counts the words of a corpus and learns merges from them. Deterministic: the result depends on the words and their
/// counts alone. Ids: 0 `<｜begin▁of▁sentence｜>`, 1 `<｜end▁of▁sentence｜>`, 2 `<｜▁pad▁｜>`, 3..258 the bytes in V3's
/// order, then merged tokens, then the FIM, role, tool and think tokens.
class BpeTrainer {
 public:
  BpeTrainer();
  ~BpeTrainer();
  BpeTrainer(const BpeTrainer&) = delete;
  BpeTrainer& operator=(const BpeTrainer&) = delete;

  /// Adds the words of `text`. A word that two calls share is counted as two: cut at ends of lines.
  void add_text(std::string_view text);

  /// The tokenizer of exactly `vocab_size` ids, or of fewer if the corpus has no more pairs that occur twice. Pairs are
  /// merged by count, ties by the smaller (left id, right id). Throws Error when `vocab_size` is out of range.
  TokenizerFile train(int32_t vocab_size) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// tokenizer_config.json that goes with BpeTrainer's tokenizers.
TokenizerConfig trained_tokenizer_config();

}  // namespace sluice
