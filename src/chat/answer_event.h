// What an answer consists of, piece by piece.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

/// The next piece of an answer. A tool call begins with one event that has its name (never empty) and no text; the
/// events after it with the same index append to its arguments.
struct AnswerEvent {
  enum class Kind : uint8_t { reasoning, content, tool_call } kind;
  std::string text;    // of the reasoning, of the content, or of the call's arguments (JSON as the model wrote it)
  int call = 0;        // tool_call: which one, counted from 0
  std::string name{};  // tool_call: of the function, in the first event of a call

  bool operator==(const AnswerEvent&) const = default;
};

using AnswerEvents = std::vector<AnswerEvent>;

}  // namespace sluice
