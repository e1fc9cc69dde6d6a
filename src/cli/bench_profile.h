// Where the time of a step goes.
#pragma once
#include <functional>

#include "base/stream.h"

namespace sluice {

/// Runs `step` on `s` and prints a line per kind of op, the longest first, and what is between them.
void print_profile(Stream& s, const std::function<void()>& step);

}  // namespace sluice
