// What a run on several ranks does otherwise than one alone (train/replicas.h, train/pipeline_run.h).
#include <cmath>
#include <functional>

#include "train/batch.h"
#include "train/trainer.h"

namespace sluice {

void Trainer::check_ranks() const {
  const int ranks = world_.size();
  for (const auto& [key, wanted] : {std::pair("expert_parallel", config_.expert_parallel),
                                    std::pair("pipeline_parallel", config_.pipeline_parallel)})
    if (ranks == 1 && wanted > 1)
      fail("{}: expected {} ranks or a multiple, started by mpirun, found one", key, wanted);
  if (ranks > 1 && gpu_) fail("device: several ranks train on CPUs only, found {}", config_.device);
  const int64_t parts = std::max<int64_t>(ranks / config_.pipeline_parallel, 1);
  if (config_.batch_size % parts != 0)
    fail("batch_size: expected a multiple of the {} ranks that share it, found {}", parts, config_.batch_size);
  if (ranks > 1 && config_.batch_start > 0)
    fail("batch_start: expected 0 with several ranks, found {}", config_.batch_start);
}

void Trainer::check_same_on_all_ranks(const fs::path& checkpoint) {
  const int64_t name = static_cast<int64_t>(std::hash<std::string>()(checkpoint.filename().string()));
  if (agree(world_, name) != name)
    fail("{}: rank {} finds another newest good checkpoint there than the first rank, {}", config_.out, world_.rank(),
         checkpoint.filename().string());
}

void Trainer::make_pipeline() {
  const int64_t rows = config_.batch_size / replicas_->data_parts();
  if (rows % config_.micro_batch != 0)
    fail("micro_batch: expected a divisor of the {} sequences that a pipeline gets in a step, found {}", rows,
         config_.micro_batch);
  const Pipeline pipeline(replicas_->layout().schedule, replicas_->layout().pipeline,
                          static_cast<int>(rows / config_.micro_batch));
  pipeline_ = std::make_unique<PipelineRun>(compute(), pipeline, replicas_->pipeline(), model_, optimizer_->grad());
}

StepLosses Trainer::whole_batch(const Batch& batch, const StepSchedule& schedule) {
  const int64_t rows = batch.rows / replicas_->data_parts(), begin = rows * replicas_->data_part();
  StepLosses losses = pipeline_ ? pipeline_->step(batch, begin, config_.micro_batch,
                                                  pass_options(config_, schedule, count_targets(batch)), counts_LE_)
                                : forward_backward(batch, begin, begin + rows, schedule);
  replicas_->sum(Tensor(&losses.main, DType::f64, {3}));
  return losses;
}

double Trainer::grad_norm() {
  replicas_->reduce_gradients(optimizer_->grad());
  double squares = optimizer_->grad_squares(compute());
  replicas_->sum(Tensor(&squares, DType::f64, {1}));
  return std::sqrt(squares);
}

}  // namespace sluice
