#include "base/op_times.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/config.h"
#include "base/cuda/runtime.h"

namespace sluice {
namespace {

double seconds_between(const Moment& begin, const Moment& end) {
  if constexpr (kHasCuda)
    if (begin.mark) return cuda::seconds_between(begin.mark, end.mark);
  return end.seconds - begin.seconds;
}

}  // namespace

Moment OpTimes::now(Stream& s) {
  if constexpr (kHasCuda)
    if (s.is_cuda()) return {0, cuda::mark(s.queue())};
  return {std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count()};
}

std::vector<OpTimes::Kind> OpTimes::kinds(Stream& s) const {
  s.synchronize();
  std::map<std::string, Kind> by_name;
  for (const Span& span : spans_) {
    Kind& kind = by_name[span.name];
    kind.name = span.name;
    ++kind.calls;
    kind.seconds += seconds_between(span.begin, span.end);
  }
  std::vector<Kind> list;
  for (const auto& [name, kind] : by_name) list.push_back(kind);
  std::stable_sort(list.begin(), list.end(), [](const Kind& a, const Kind& b) { return a.seconds > b.seconds; });
  return list;
}

}  // namespace sluice
