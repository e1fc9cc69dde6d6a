// What compiling a grammar may take.
#pragma once
#include <cstddef>

namespace sluice {

/// In steps of some 20 ns, over all schemas of a grammar: values of schemas that are copied or compared, states
/// of patterns. Beyond, the grammar is refused.
constexpr size_t kMaxCompileWork = 5'000'000;

}  // namespace sluice
