// A text read from beginning to end for the logits of all of its tokens.
#pragma once
#include <optional>
#include <span>

#include "engine/session.h"

namespace sluice {

class TextReader {
 public:
  /// `ids` and the engine must outlive the reader.
  TextReader(Engine& engine, std::span<const int32_t> ids);

  struct Rows {
    int64_t begin;  // index of the first of these tokens in the text
    Tensor logits;  // (tokens, V) f32, each row predicting the token after it; valid until the next call
  };
  /// The next few hundred tokens; nothing after the end. They are the last ones that the engine has seen. A text longer
  /// than the context is read in windows that begin half a context apart, so that every token after the first window is
  /// predicted from at least half a context. Throws Error for an id outside the vocabulary.
  std::optional<Rows> next();

 private:
  std::span<const int32_t> tokens(int64_t begin, int64_t end) const;

  Session session_;
  std::span<const int32_t> ids_;
  int64_t window_ = 0, done_ = 0;
};

}  // namespace sluice
