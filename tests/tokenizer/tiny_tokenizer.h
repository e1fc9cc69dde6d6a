// A small tokenizer trained in the test itself.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "../base/temp_dir.h"
#include "tokenizer/bpe_train.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

inline std::string tiny_corpus() {
  std::string text;
  for (int i = 0; i < 40; ++i)
    text +=
        "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want "
        "of a wife.\n床前明月光，疑是地上霜。举头望明月，低头思故乡。\nHer 12 sisters had 3456 ideas; aaaaaaaa!\n";
  return text;
}

inline TokenizerFile tiny_file(int32_t vocab_size = 400) {
  BpeTrainer trainer;
  trainer.add_text(tiny_corpus());
  return trainer.train(vocab_size);
}

inline Tokenizer tiny_tokenizer() { return Tokenizer(tiny_file(), trained_tokenizer_config()); }

inline std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, bool parse_special = true) {
  std::vector<int32_t> ids;
  tokenizer.encode(text, parse_special, ids);
  return ids;
}

}  // namespace sluice
