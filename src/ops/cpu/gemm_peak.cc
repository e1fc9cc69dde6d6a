#include "ops/gemm_peak.h"

#include <chrono>
#include <vector>

#include "base/stream.h"
#include "ops/cpu/gemm_f32.h"

namespace sluice {

double gemm_peak_flops(int threads) {
  constexpr int64_t n = 1024;
  using Clock = std::chrono::steady_clock;
  Stream s(threads);
  std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
  const int64_t block = (n + threads - 1) / threads;
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    const auto start = Clock::now();
    double seconds = 0;
    int64_t products = 0;
    do {
      parallel_for(s, n, block, [&](int64_t begin, int64_t end, int) {
        cpu::gemm_f32({end - begin, n, n}, {a.data() + begin * n, n}, {b.data(), n, true}, 0, c.data() + begin * n, n);
      });
      ++products;
      seconds = std::chrono::duration<double>(Clock::now() - start).count();
    } while (seconds < 0.1);
    best = std::max(best, 2.0 * n * n * n * static_cast<double>(products) / seconds);
  }
  return best;
}

std::string gemm_library() { return cpu::gemm_description(); }

}  // namespace sluice
