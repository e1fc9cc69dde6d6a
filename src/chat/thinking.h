// The thinking section of an answer: <think>...</think> at its beginning (specification 9.4, R1).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

/// Cuts the text of one answer, which arrives in pieces, into thinking and the answer proper. The tags belong to
/// neither. White space before <think> is dropped; the same tags later in the answer are ordinary text.
class ThinkingSplitter {
 public:
  struct Parts {
    std::string thinking, answer;  // in this order
  };

  /// Where the text begins: before a thinking section or an answer, in a section that the prompt has begun, or after
  /// it.
  enum class State : uint8_t { start, thinking, answer };

  explicit ThinkingSplitter(State state = State::start) : state_(state) {}

  /// What is certain after one more piece; what may become a tag is held back.
  Parts push(std::string_view piece);
  /// The end of the text: what was held back.
  Parts finish();
  State state() const { return state_; }
  /// Whether a thinking section has begun and not ended.
  bool is_thinking() const { return state_ == State::thinking; }

 private:
  State state_;
  std::string held_;
};

}  // namespace sluice
