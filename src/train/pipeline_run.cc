#include "train/pipeline_run.h"

#include <algorithm>

#include "base/transfer.h"
#include "train/batch.h"

namespace sluice {

double sum_of(Stream& s, const Tensor& t) {
  std::vector<float> values(static_cast<size_t>(t.size()));
  download(s, Tensor(values.data(), {t.rows(), t.cols()}), t);
  double total = 0;
  for (const float v : values) total += static_cast<double>(v);
  return total;
}

StageRange stage_range(const Pipeline& pipeline, int stage, int64_t layers) {
  return {layers * stage / pipeline.stages(), layers * (stage + 1) / pipeline.stages()};
}

PipelineRun::PipelineRun(Stream& s, const Pipeline& pipeline, Communicator& ranks, const Model& model,
                         const ModelWeights& grad)
    : s_(s), pipeline_(pipeline), ranks_(ranks), model_(model), grad_(grad) {
  const int64_t layers = static_cast<int64_t>(model.weights.layers.size());
  if (layers < pipeline.stages())
    fail("pipeline_parallel: expected at most as many stages as the {} layers, found {}", layers, pipeline.stages());
  for (int c = 0; c < pipeline.chunks(); ++c)
    ranges_.push_back(stage_range(pipeline, pipeline.stage({ranks.rank(), c}), layers));
}

StepLosses PipelineRun::step(const Batch& batch, int64_t first_row, int64_t micro_rows, const PassOptions& options,
                             const Tensor& counts_LE) {
  batch_ = &batch, first_row_ = first_row, micro_rows_ = micro_rows;
  options_ = options, counts_LE_ = counts_LE;
  options_.balance_scale = static_cast<float>(micro_rows) / static_cast<float>(batch.rows);
  if (micro_bytes_ == 0) micro_bytes_ = bytes_of_micro(micro_rows, batch.cols - 1, options);
  losses_ = {};
  losses_.tokens = count_targets(batch);
  spans_ = run_pipeline(pipeline_, ranks_, *this);
  return losses_;
}

/// By a dry run of the largest stage here.
size_t PipelineRun::bytes_of_micro(int64_t rows, int64_t tokens, const PassOptions& options) const {
  size_t most = 0;
  for (const StageRange& range : ranges_) {
    Stream dry = Stream::dry();
    Arena a = Arena::counting();
    StageSaved k{ModelBatch{rows,
                            tokens,
                            a.alloc(DType::i32, {rows * tokens}),
                            a.alloc(DType::i32, {rows * tokens}),
                            a.alloc(DType::i32, {rows * tokens}),
                            {}},
                 options};
    for (size_t i = 1; i <= model_.weights.mtp.size(); ++i)
      k.batch.mtp_target.push_back(a.alloc(DType::i32, {rows * (tokens - static_cast<int64_t>(i))}));
    const DType dtype = activation_dtype(model_.precision);
    const Tensor edge_TD = a.alloc(dtype, {rows * tokens, model_.config.hidden_size}),
                 gradient_TD = a.alloc(dtype, {rows * tokens, model_.config.hidden_size});
    if (!range.is_first()) k.hidden.push_back(edge_TD);
    for (int phase = 0; phase < stage_forward_phases(model_, range); ++phase)
      stage_forward_phase(dry, a, model_, range, {}, k, phase);
    k.dh_TD = gradient_TD;
    for (int phase = 0; phase < stage_backward_phases(model_, range); ++phase)
      stage_backward_phase(dry, a, model_, {grad_, Weights::later}, range, k, phase);
    most = std::max(most, a.peak_bytes());
  }
  return most + (size_t{1} << 16);
}

PipelineRun::Micro& PipelineRun::micro_of(int chunk, int micro) {
  const auto found = micros_.find({chunk, micro});
  if (found != micros_.end()) return found->second;
  if (free_.empty()) {
    free_.emplace_back(micro_bytes_, s_.device());
    peak_bytes_ += micro_bytes_;
  }
  Micro& m = micros_.emplace(std::pair(chunk, micro), Micro{std::move(free_.back()), {{}, options_}}).first->second;
  free_.pop_back();
  // Of dualpipe's two directions each has half of the micro-batches.
  const int half = pipeline_.schedule() == Schedule::dualpipe ? chunk * pipeline_.chunk_micros() : 0;
  m.saved.batch = device_batch(s_, m.memory, *batch_, first_row_ + (half + micro) * micro_rows_, micro_rows_,
                               static_cast<int64_t>(model_.weights.mtp.size()));
  return m;
}

std::span<std::byte> PipelineRun::input(int chunk, int micro) {
  Micro& m = micro_of(chunk, micro);
  if (m.saved.hidden.empty())
    m.saved.hidden.push_back(m.memory.alloc(activation_dtype(model_.precision),
                                            {m.saved.batch.batch * m.saved.batch.tokens, model_.config.hidden_size}));
  return bytes_of(m.saved.hidden[0]);
}

int PipelineRun::phases(const StagePass& pass) const {
  return pass.is_forward() ? stage_forward_phases(model_, range(pass.chunk))
                           : stage_backward_phases(model_, range(pass.chunk));
}

void PipelineRun::await(const StagePass& pass, int phase) {
  const StageSaved& k = micro_of(pass.chunk, pass.micro).saved;
  pass.is_forward() ? stage_await_forward(k, phase) : stage_await_backward(k, phase);
}

void PipelineRun::compute(const StagePass& pass, int phase) {
  Micro& m = micro_of(pass.chunk, pass.micro);
  const StageRange& stage = range(pass.chunk);
  if (pass.is_forward()) return stage_forward_phase(s_, m.memory, model_, stage, counts_LE_, m.saved, phase);
  if (phase == 0) m.saved.dh_TD = m.gradient_TD;
  const Backward backward{grad_, pass.step == Step::B ? Weights::now : Weights::later};
  stage_backward_phase(s_, m.memory, model_, backward, stage, m.saved, phase);
  if (phase + 1 == phases(pass)) add_losses(pass.chunk, m.saved);
}

std::span<const std::byte> PipelineRun::output(int chunk, int micro) {
  return bytes_of(micro_of(chunk, micro).saved.hidden.back());
}

std::span<std::byte> PipelineRun::output_gradient(int chunk, int micro) {
  Micro& m = micro_of(chunk, micro);
  if (!m.gradient_TD) {
    const Tensor& out = m.saved.hidden.back();
    m.gradient_TD = m.memory.alloc(out.dtype, {out.rows(), out.cols()});
  }
  return bytes_of(m.gradient_TD);
}

std::span<const std::byte> PipelineRun::input_gradient(int chunk, int micro) {
  return bytes_of(micro_of(chunk, micro).saved.dh_TD);
}

void PipelineRun::backward_weight(int chunk, int micro) {
  stage_backward_weight(s_, model_, grad_, range(chunk), micro_of(chunk, micro).saved);
}

void PipelineRun::release(int chunk, int micro) {
  const auto found = micros_.find({chunk, micro});
  found->second.memory.release(0);
  free_.push_back(std::move(found->second.memory));
  micros_.erase(found);
}

void PipelineRun::add_losses(int chunk, const StageSaved& k) {
  for (const Tensor& loss : balance_losses(k)) losses_.balance += sum_of(s_, loss) / static_cast<double>(batch_->rows);
  if (!range(chunk).is_last(model_)) return;
  losses_.main += sum_of(s_, k.loss_T) * static_cast<double>(options_.loss_scale);
  for (const Tensor& loss : k.mtp_loss)
    losses_.mtp += sum_of(s_, loss) * static_cast<double>(options_.loss_scale) / static_cast<double>(k.mtp_loss.size());
}

}  // namespace sluice
