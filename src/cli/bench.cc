// sluice bench: how fast this machine does what, against its own roof in the same run.
#include "cli/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cli/commands.h"

namespace sluice {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

MeanDeviation mean_deviation(const std::vector<double>& v) {
  const double n = static_cast<double>(v.size());
  double sum = 0, squares = 0;
  for (const double x : v) sum += x;
  for (const double x : v) squares += (x - sum / n) * (x - sum / n);
  return {sum / n, v.size() > 1 ? std::sqrt(squares / (n - 1)) : 0};
}

void add_bench_command(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed against this machine's roof");
  bench->require_subcommand(1);
  add_bench_train_command(*bench);
  add_bench_kernel_commands(*bench);
  add_bench_slice_command(*bench);
  add_bench_inference_commands(*bench);
  add_bench_latent_command(*bench);
  add_bench_draft_command(*bench);
  add_bench_serve_command(*bench);
}

}  // namespace sluice
