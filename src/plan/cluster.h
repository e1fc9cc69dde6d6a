// A cluster, a run on it and a layout of the run: everything that a plan is made of besides the model. One struct, one
// list of its fields, which are the keys of the YAML file and of key=value on the command line.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

struct ClusterConfig {
  // The machine. GB are 10^9 bytes.
  int64_t gpus = 8;
  int64_t gpus_per_node = 8;
  double gpu_memory_gb = 80;
  double peak_fp8_tflops = 1979;  // dense
  double peak_bf16_tflops = 989;
  double memory_gb_per_second = 3350;
  double nvlink_gb_per_second = 450;  // of one GPU to the others of its node, in one direction, as reached in practice
  double infiniband_gb_per_second = 50;  // of one GPU to other nodes, likewise
  int64_t sms = 132;
  int64_t communication_sms = 20;  // of these, kept for transfers while transfers and computation overlap
  double dollars_per_gpu_hour = 2;
  std::string measurements;  // JSON file of measured speeds, beside this one; empty: the peaks above

  // The run.
  int64_t seq_len = 4096;
  int64_t batch_size = 1024;                   // sequences of a step
  std::vector<std::string> context_extension;  // phases after it: "LENGTH x SEQUENCES x STEPS"
  double post_training_gpu_hours = 0;          // added to the cost
  double published_gpu_hours = 0;              // of pre-training, to compare with; 0: nothing to compare with

  // The layout. 0 or "": searched.
  int64_t pipeline = 0;      // ranks of the pipeline
  int64_t expert = 0;        // ranks that share the experts of a layer
  std::string schedule;      // 1f1b | zb1p | dualpipe | dualpipev
  int64_t micro_tokens = 0;  // tokens of a micro-batch on one GPU; a longer sequence is spread over several

  /// Calls v(name, field) for every field.
  template <class V>
  void visit(V&& v);
};

/// A phase of context extension.
struct ExtensionPhase {
  int64_t seq_len, batch_size, steps;
};

/// Reads "32768 x 1920 x 1000". Throws Error naming the key.
ExtensionPhase parse_extension(const std::string& text);

/// Checks ranges and combinations. Throws Error naming the key.
void check_cluster(const ClusterConfig& cluster);

/// Tokens in "14.8T", "630B", "5M", "1000k" or "125829120". Throws Error naming `tokens` for anything else, and unless
/// it is from 1 to 1e18.
double parse_tokens(const std::string& text);

template <class V>
void ClusterConfig::visit(V&& v) {
  v("gpus", gpus), v("gpus_per_node", gpus_per_node), v("gpu_memory_gb", gpu_memory_gb);
  v("peak_fp8_tflops", peak_fp8_tflops), v("peak_bf16_tflops", peak_bf16_tflops);
  v("memory_gb_per_second", memory_gb_per_second), v("nvlink_gb_per_second", nvlink_gb_per_second);
  v("infiniband_gb_per_second", infiniband_gb_per_second);
  v("sms", sms), v("communication_sms", communication_sms), v("dollars_per_gpu_hour", dollars_per_gpu_hour);
  v("measurements", measurements);
  v("seq_len", seq_len), v("batch_size", batch_size), v("context_extension", context_extension);
  v("post_training_gpu_hours", post_training_gpu_hours), v("published_gpu_hours", published_gpu_hours);
  v("pipeline", pipeline), v("expert", expert), v("schedule", schedule), v("micro_tokens", micro_tokens);
}

}  // namespace sluice
