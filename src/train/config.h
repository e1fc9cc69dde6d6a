// Everything a training run can be told. One struct, one list of its fields: the same names in YAML files, as key=value
// on the command line, in the saved configuration and here.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "formats/hf_config.h"
#include "model/weights.h"

namespace sluice {

struct TrainConfig {
  // Text. Each source is "PATTERN" or "PATTERN=WEIGHT"; without weights, sources count by their size.
  std::vector<std::string> data;
  std::vector<std::string> eval;   // held-out files, one evaluation each, named after the file
  double eval_fraction = 0.02;     // without `eval`: the last part of every source is held out
  double fim_rate = 0;             // share of documents turned into fill-in-the-middle
  bool split_blank_lines = false;  // plain text: an empty line ends a document

  // Tokenizer and model.
  std::string tokenizer;      // folder; empty: of init_from, or trained on the data
  int64_t vocab_size = 4096;  // of a trained tokenizer
  std::string size = "tiny";  // tiny | small | medium
  std::string model;          // a config.json instead of `size`; its vocab_size is replaced by the tokenizer's
  std::string init_from;      // checkpoint folder to train on from
  int64_t mtp_modules = 1;

  // Run.
  std::string out;    // run folder
  std::string time;   // budget, "90s", "30m", "2h": decides the number of steps
  int64_t steps = 0;  // exactly so many steps, unless 0
  int64_t seed = 1;
  int64_t threads = 0;         // 0: all cores
  std::string device = "cpu";  // cpu | cuda | cuda:N
  // Under mpirun or srun: ranks that share the routed experts, ranks that share the layers, and how steps flow through
  // these.
  int64_t expert_parallel = 1, pipeline_parallel = 1;
  std::string schedule = "1f1b";  // 1f1b | zb1p | dualpipe | dualpipev (specification 6.3 to 6.5)
  // Rows on their way to experts of other ranks and back: as they are computed (same), or in fewer bits.
  std::string dispatch_payload = "same";  // same | fp8 (codes with a scale for every 128 columns)
  std::string combine_payload = "same";   // same | bf16
  double expert_capacity = 2;  // rows that a rank takes at a time, as a multiple of its even share; more come in rounds
  std::string precision = "f32";  // f32 | bf16 | fp8 (specification 5)
  bool recompute = false;         // latent norms, up-projections, gathered rows and SwiGLU in the backward pass

  // Batches, in sequences of seq_len tokens.
  int64_t seq_len = 256;
  int64_t batch_size = 16;
  int64_t batch_start = 0;  // batch ramp: from this size (0: none) ...
  double batch_ramp = 0;    // ... growing linearly over this share of the run
  int64_t micro_batch = 8;  // sequences in memory at once

  // Optimiser (specification 7.3).
  double lr = 3e-3;
  double lr_min = 0;  // as a share of lr, at the end
  int64_t warmup_steps = 40;
  double decay_start = 0.3;  // share of the run after which the cosine begins
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;
  double ema_decay = 0;  // keep an average of the weights (0: none), saved beside them

  // Balance of experts (specification 3.5, 3.6).
  double bias_speed = 1e-3;
  double bias_stop = 0.97;  // share of the run after which the biases rest
  double balance_alpha = 1e-4;
  bool balance_routed_counts = false;

  // Multi-token prediction (specification 4.1).
  double mtp_weight = 0.3;
  double mtp_weight_late = 0.1;  // from mtp_switch on
  double mtp_switch = 0.67;      // share of the run

  // Now and then, in steps; 0: never (at the end always).
  int64_t eval_every = 200;
  int64_t eval_tokens = 32768;  // of each held-out set, except at the end
  int64_t save_every = 200;
  int64_t keep_last = 2;  // checkpoints kept besides the best one
  int64_t sample_every = 0;
  std::string sample_prompt;

  /// Calls v(name, field) for every field.
  template <class V>
  void visit(V&& v);
};

/// "key: value" lines of YAML that give the same struct back.
std::string format_config(const TrainConfig& config);

/// Checks ranges and combinations. Throws Error naming the key.
void check_config(const TrainConfig& config);

/// Seconds in "90s", "30m", "2h", "1d" or "45"; 0 for "". Throws Error naming `time`.
double parse_duration(const std::string& text);

Precision parse_precision(const std::string& text);

/// The built-in shape `size` with a vocabulary: DeepSeek-V3 in small. Throws Error naming the known sizes.
HfConfig builtin_model(const std::string& size, int64_t vocab_size, int64_t seq_len);

/// What the schedules say for a step. `progress` is the share of the run that lies behind, in [0, 1].
struct StepSchedule {
  float lr, mtp_weight, bias_speed;
  int64_t batch_size;
};
StepSchedule schedule_at(const TrainConfig& c, int64_t step, double progress);

template <class V>
void TrainConfig::visit(V&& v) {
  v("data", data), v("eval", eval), v("eval_fraction", eval_fraction), v("fim_rate", fim_rate);
  v("split_blank_lines", split_blank_lines);
  v("tokenizer", tokenizer), v("vocab_size", vocab_size), v("size", size), v("model", model);
  v("init_from", init_from), v("mtp_modules", mtp_modules);
  v("out", out), v("time", time), v("steps", steps), v("seed", seed), v("threads", threads);
  v("device", device), v("expert_parallel", expert_parallel);
  v("pipeline_parallel", pipeline_parallel), v("schedule", schedule);
  v("dispatch_payload", dispatch_payload), v("combine_payload", combine_payload);
  v("expert_capacity", expert_capacity);
  v("precision", precision), v("recompute", recompute);
  v("seq_len", seq_len), v("batch_size", batch_size), v("batch_start", batch_start), v("batch_ramp", batch_ramp);
  v("micro_batch", micro_batch);
  v("lr", lr), v("lr_min", lr_min), v("warmup_steps", warmup_steps), v("decay_start", decay_start);
  v("beta1", beta1), v("beta2", beta2), v("eps", eps), v("weight_decay", weight_decay), v("clip_norm", clip_norm);
  v("ema_decay", ema_decay);
  v("bias_speed", bias_speed), v("bias_stop", bias_stop), v("balance_alpha", balance_alpha);
  v("balance_routed_counts", balance_routed_counts);
  v("mtp_weight", mtp_weight), v("mtp_weight_late", mtp_weight_late), v("mtp_switch", mtp_switch);
  v("eval_every", eval_every), v("eval_tokens", eval_tokens), v("save_every", save_every), v("keep_last", keep_last);
  v("sample_every", sample_every), v("sample_prompt", sample_prompt);
}

}  // namespace sluice
