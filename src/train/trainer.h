// The training loop.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "train/checkpoint_writer.h"
#include "train/config.h"
#include "train/corpus.h"
#include "train/metrics.h"
#include "train/losses.h"
#include "train/optimizer.h"
#include "train/pipeline_run.h"
#include "train/progress.h"
#include "train/replicas.h"
#include "train/run_folder.h"

namespace sluice {

/// What the caller adds to a run.
struct TrainHooks {
  std::function<bool()> stop_requested;  // asked after every step: true saves and ends the run
  /// Text that the model writes after `prompt`; empty where samples are not wanted.
  std::function<std::string(const Model&, const Tokenizer&, const std::string& prompt)> sample;
};

/// What a run will take, known before its first step.
struct TrainPlan {
  int64_t parameters = 0, active_parameters = 0;
  size_t weight_bytes = 0, optimizer_bytes = 0, activation_bytes = 0, available_bytes = 0;
  size_t checkpoint_bytes = 0;  // of one checkpoint on disk
  double flops_per_token = 0;
  double tokens_per_second = 0;   // from a probe of about two seconds
  int64_t tokens = 0, steps = 0;  // of the training text; of the run
  double seconds = 0;             // expected
};

class Trainer {
 public:
  /// Reads text, tokenizer and weights, or, with `resume`, the newest good checkpoint in config.out. Throws Error; a
  /// run whose memory cannot fit is refused here. Of the ranks of `world`, which must outlive it, all make the same
  /// calls; the first writes files.
  Trainer(const TrainConfig& config, bool resume, TrainHooks hooks, Communicator& world);
  ~Trainer();

  /// Measures speed and settles the number of steps.
  TrainPlan plan();

  /// Trains to the end or until stop_requested. Returns whether it reached the end. Throws Error when the loss is not a
  /// number (the last checkpoint stands) or a file cannot be written.
  bool run();

  /// Lines about what was loaded, repaired or found damaged.
  const std::vector<std::string>& notes() const { return notes_; }
  const RunProgress& progress() const { return progress_; }

 private:
  bool is_first() const { return world_.rank() == 0; }
  void open_device();
  void check_ranks() const;
  void check_same_on_all_ranks(const fs::path& checkpoint);
  fs::path open_folder(const std::optional<fs::path>& checkpoint);  // where the tokenizer is
  void load_weights(const fs::path& checkpoint);
  /// The stream that the run computes on.
  Stream& compute() { return gpu_ ? *gpu_ : stream_; }
  HfConfig new_model_config(const Tokenizer& tokenizer) const;
  /// Rows [begin, end) of `batch`; losses and gradients as shares of all of it.
  StepLosses forward_backward(const Batch& batch, int64_t begin, int64_t end, const StepSchedule& schedule);
  /// All of `batch` on all ranks.
  StepLosses whole_batch(const Batch& batch, const StepSchedule& schedule);
  double grad_norm();  // of all ranks' gradients, which are added up
  void check_finite(const StepLosses& losses, double norm);
  void add_traffic(const TrafficMetrics& before, int64_t tokens);  // of the step that is over
  void record_traffic();                                           // of the steps of this run, from all ranks
  bool is_any_weight_spoiled();                                    // of several ranks, what they own
  std::string who_is_not_a_number();  // of several ranks: "; not a number on rank N (what)"
  void make_pipeline();
  Batch peek(int64_t rows);  // of the next step, which will see it again
  double probe();
  size_t checkpoint_bytes() const;  // on disk, without the tokenizer
  void train_step(const StepSchedule& schedule);
  void update_biases(float speed);
  void replan();
  void record(const StepSchedule& schedule, const StepLosses& losses, double norm, double seconds);
  void evaluate_all(int64_t max_tokens, bool saves);
  void sample();
  void check_weights();  // throws Error when they give no finite gradient: such a checkpoint would be of no use
  void save();
  std::vector<std::vector<int64_t>> expert_load() const;
  RunState state();

  TrainConfig config_;
  TrainHooks hooks_;
  Communicator& world_;
  std::unique_ptr<FolderLock> lock_;
  Stream stream_;              // of the CPU
  std::optional<Stream> gpu_;  // where the run computes, if that is not the CPU
  std::map<std::string, std::string> tokenizer_files_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Corpus corpus_;
  std::vector<int32_t> byte_lengths_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<Replicas> replicas_;
  Model model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Model> ema_;
  std::unique_ptr<PipelineRun> pipeline_;  // where several ranks share the layers
  Arena activations_{0};
  Arena counts_memory_{0};
  Tensor counts_LE_;             // tokens by router and expert in the current step, where the run computes
  std::vector<int64_t> counts_;  // the same after the step
  RunProgress progress_;
  std::unique_ptr<CheckpointWriter> writer_;  // where there are several ranks
  std::unique_ptr<MetricsWriter> metrics_;    // of the first rank
  std::unique_ptr<Progress> bar_;             // likewise
  std::vector<std::string> notes_;
  bool own_losses_are_finite_ = true, own_gradient_is_finite_ = true;  // before those of other ranks are added
  TrafficMetrics traffic_;                                             // of this rank in training steps
  double started_ = 0;  // steady-clock seconds at the start of this process's training
  double seconds_per_token_ = 0;
  size_t activation_bytes_ = 0;
};

}  // namespace sluice
