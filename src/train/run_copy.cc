#include "train/run_copy.h"

#include "base/transfer.h"

namespace sluice {
namespace {

void transfer_state(Stream& gpu, const RunState& to, const RunState& from,
                    void (*transfer)(Stream& s, const Tensor& to, const Tensor& from)) {
  transfer_tree(gpu, to.model.weights, from.model.weights, transfer);
  if (&from.optimizer.master() != &from.model.weights)
    transfer_tree(gpu, to.optimizer.master(), from.optimizer.master(), transfer);
  transfer_tree(gpu, to.optimizer.first_moment(), from.optimizer.first_moment(), transfer);
  transfer_tree(gpu, to.optimizer.second_moment(), from.optimizer.second_moment(), transfer);
  if (from.ema) transfer_tree(gpu, *to.ema, *from.ema, transfer);
  to.optimizer.set_steps(from.optimizer.steps());
}

}  // namespace

RunCopy::RunCopy(Stream& host, Stream& gpu, const RunState& run)
    : model_(download_model(gpu, run.model)), optimizer_(host, model_, {}), progress_(run.progress) {
  if (run.ema) ema_ = std::make_unique<Model>(allocate_f32_like(model_));
  transfer_state(gpu, state(), run, download);
}

RunState RunCopy::state() { return {model_, optimizer_, ema_ ? &ema_->weights : nullptr, progress_}; }

void RunCopy::upload_to(Stream& gpu, const RunState& run) { transfer_state(gpu, run, state(), upload); }

}  // namespace sluice
