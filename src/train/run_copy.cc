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

void copy_owned(Stream& s, ModelWeights& to, ModelWeights& from, const ParamMask& owned) {
  const std::vector<Param> out = parameters(to), in = parameters(from);
  for (size_t i = 0; i < in.size(); ++i)
    if (is_in(owned, i)) download(s, out[i].matrix->tensor(), in[i].matrix->tensor());
}

}  // namespace

RunCopy::RunCopy(Stream& host, Stream& gpu, const RunState& run)
    : model_(download_model(gpu, run.model)), optimizer_(host, model_, {}), progress_(run.progress) {
  if (run.ema) ema_ = std::make_unique<Model>(allocate_f32_like(model_));
  transfer_state(gpu, state(), run, download);
}

RunState RunCopy::state() { return {model_, optimizer_, ema_ ? &ema_->weights : nullptr, progress_}; }

void RunCopy::upload_to(Stream& gpu, const RunState& run) { transfer_state(gpu, run, state(), upload); }

RunSnapshot::RunSnapshot(Stream& s, const RunState& run)
    : config_(run.model.config), precision_(run.model.precision), progress_(run.progress) {
  const int64_t mtp = static_cast<int64_t>(run.model.weights.mtp.size());
  const ParamMask& owned = run.optimizer.owned();
  master_ = allocate_model(config_, mtp, Precision::f32);
  copy_owned(s, master_.weights, run.optimizer.master(), owned);
  if (run.ema) {
    ema_ = std::make_unique<Model>(allocate_model(config_, mtp, Precision::f32));
    copy_owned(s, ema_->weights, *run.ema, owned);
  }
  moments_ = Arena(Optimizer::moment_bytes(config_, mtp, precision_));
  for (const auto& [to, from] :
       {std::pair(&first_, &run.optimizer.first_moment()), std::pair(&second_, &run.optimizer.second_moment())}) {
    *to = weight_shapes(config_, mtp);
    const std::vector<Param> out = parameters(*to), in = parameters(*from);
    for (size_t i = 0; i < in.size(); ++i) allocate(*out[i].matrix, in[i].matrix->format, moments_);
    copy_owned(s, *to, *from, owned);
  }
}

}  // namespace sluice
