#include "base/error.h"

namespace sluice {

void throw_bug(const char* what, const char* file, int line) {
  throw Bug(fmt::format("{}:{}: broken invariant: {}", file, line, what));
}

}  // namespace sluice
