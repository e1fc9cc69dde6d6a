#include "cli/bench_profile.h"

#include <fmt/format.h>

#include "base/op_times.h"
#include "cli/bench.h"

namespace sluice {

void print_profile(Stream& s, const std::function<void()>& step) {
  constexpr double kLeastShare = 0.002;
  OpTimes times;
  s.set_times(&times);
  const double wall = seconds_of(step);
  s.set_times(nullptr);
  double all = 0, few = 0;
  const auto print = [&](double seconds, const std::string& what) {
    fmt::print("{:9.3f} ms {:5.1f}%  {}\n", 1e3 * seconds, 100 * seconds / wall, what);
  };
  for (const OpTimes::Kind& k : times.kinds(s)) {
    all += k.seconds;
    if (k.seconds < kLeastShare * wall)
      few += k.seconds;
    else
      print(k.seconds, fmt::format("{} x {}", k.calls, k.name));
  }
  print(few, fmt::format("ops of less than {:.1f}% each", 100 * kLeastShare));
  print(wall - all, fmt::format("between ops; the step with these notes took {:.3f} ms", 1e3 * wall));
}

}  // namespace sluice
