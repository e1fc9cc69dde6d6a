// A tokenizer of one token per byte, and one special token.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

#include "tokenizer/tokenizer.h"

namespace sluice {

constexpr int32_t kSpecial = 256;

inline TokenizerFile byte_tokenizer_file() {
  TokenizerFile file;
  // GPT-2's byte symbols: printable bytes stand for themselves, the others for U+0100 and on.
  int32_t next = 256;
  for (int32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    const int32_t c = printable ? b : next++;
    std::string symbol;
    if (c < 0x80) {
      symbol = static_cast<char>(c);
    } else {
      symbol = {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
    }
    file.vocab.emplace_back(symbol, b);
  }
  AddedToken special;
  special.id = kSpecial;
  special.content = "<end>";
  special.special = true;
  file.added_tokens.push_back(special);
  PreTokenizerStage stage;
  stage.kind = PreTokenizerStage::Kind::byte_level;
  file.stages.push_back(stage);
  return file;
}

inline const Tokenizer& tokenizer() {
  static const Tokenizer t(byte_tokenizer_file());
  return t;
}

}  // namespace sluice
