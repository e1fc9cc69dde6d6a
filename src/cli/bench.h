// What the subcommands of `sluice bench` share.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <vector>

namespace sluice {

void add_bench_train_command(CLI::App& bench);
void add_bench_kernel_commands(CLI::App& bench);
void add_bench_slice_command(CLI::App& bench);
void add_bench_inference_commands(CLI::App& bench);
void add_bench_latent_command(CLI::App& bench);
void add_bench_draft_command(CLI::App& bench);
void add_bench_serve_command(CLI::App& bench);

double seconds_of(const std::function<void()>& work);

/// The middle one; of an even number the upper. `v` must not be empty.
double median(std::vector<double> v);

struct MeanDeviation {
  double mean, deviation;  // of the sample; 0 for one value
};
MeanDeviation mean_deviation(const std::vector<double>& v);

}  // namespace sluice
