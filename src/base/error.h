// Errors. Two kinds only: the user's mistake (Error, exit code 2) and our own broken invariant (Bug, exit code 70).
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace sluice {

/// A mistake of the user: a file, field, option or request that is not what was expected. The text is one line that
/// names the file or field, what was expected and what was found.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr int kUserErrorExit = 2, kBugExit = 70;  // exit codes of the program

/// An invariant of ours that does not hold.
class Bug : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Throws Error with the formatted text.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void throw_bug(const char* what, const char* file, int line);

/// Throws Bug with file and line unless `condition` holds. `what` reads "op: expected ...".
inline void check(bool condition, const char* what, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (!condition) [[unlikely]]
    throw_bug(what, file, line);
}

}  // namespace sluice
