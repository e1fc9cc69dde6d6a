#include "train/optimizer.h"

#include "base/transfer.h"
#include "ops/elementwise.h"
#include "ops/optim.h"
#include "ops/quant.h"

namespace sluice {
namespace {

Format moment_format(Precision precision) { return precision == Precision::f32 ? Format::f32 : Format::bf16; }

size_t bytes_of_moments(ModelWeights w, Precision precision) {
  Arena arena = Arena::counting();
  for (const Param& p : parameters(w)) allocate(*p.matrix, moment_format(precision), arena);
  return 2 * arena.peak_bytes();
}

/// Of the sum of squares, which lies with the moments.
constexpr size_t kSumBytes = 64;

/// Whether gradients of its kind are set by PassOptions::gradients.
bool is_set_first(ParamKind kind) { return kind != ParamKind::embedding && kind != ParamKind::norm; }

bool is_optimised(ParamKind kind) { return kind != ParamKind::router_bias; }

}  // namespace

Optimizer::Optimizer(Stream& s, Model& model, const OptimizerOptions& options, RankShare share)
    : model_(model), options_(options), share_(std::move(share)), grad_(allocate_f32_like(model)) {
  const ModelWeights shapes = shapes_of(model.weights);
  moments_ = Arena(bytes_of_moments(shapes, model.precision) + kSumBytes, model.memory.device());
  sum_1_ = moments_.alloc(DType::f64, {1});
  for (ModelWeights* w : {&first_, &second_}) {
    *w = shapes;
    const std::vector<Param> list = parameters(*w);
    for (size_t i = 0; i < list.size(); ++i) {
      allocate(*list[i].matrix, moment_format(model.precision), moments_);
      if (is_in(share_.owned, i)) zero(s, list[i].matrix->tensor());
    }
  }
  zero_grad(s);
  if (model.precision != Precision::f32) take_masters(s);
  list_tensors();
}

void Optimizer::take_masters(Stream& s) {
  master_.emplace(allocate_f32_like(model_));
  const std::vector<Param> working = parameters(model_.weights), master = parameters(master_->weights);
  for (size_t i = 0; i < master.size(); ++i) {
    const Matrix& w = *working[i].matrix;
    if (master[i].kind == ParamKind::router_bias)
      *master[i].matrix = w;
    else if (!is_in(share_.owned, i))
      continue;
    else if (w.format == Format::fp8_128)
      dequantize_weight(s, master[i].matrix->tensor(), w);
    else
      copy(s, master[i].matrix->tensor(), w.tensor());
  }
}

void Optimizer::list_tensors() {
  const std::vector<Param> w = parameters(master()), g = parameters(grad_.weights), m = parameters(first_),
                           v = parameters(second_), working = parameters(model_.weights);
  for (size_t i = 0; i < w.size(); ++i) {
    const Tensor gradient = g[i].matrix->tensor();
    if (is_optimised(w[i].kind) && is_in(share_.held, i)) held_.push_back(gradient);
    if (!is_optimised(w[i].kind) || !is_in(share_.owned, i)) {
      if (is_in(share_.held, i)) others_.push_back(gradient);
      continue;
    }
    gradients_.push_back(gradient);
    updated_.push_back({w[i].matrix->tensor(), m[i].matrix->tensor(), v[i].matrix->tensor(), gradient,
                        master_ ? *working[i].matrix : Matrix(), has_weight_decay(w[i].kind),
                        options_.sets_gradients && is_set_first(w[i].kind)});
  }
}

void Optimizer::zero_grad(Stream& s) {
  const std::vector<Param> list = parameters(grad_.weights);
  for (size_t i = 0; i < list.size(); ++i)
    if (is_in(share_.held, i)) zero(s, list[i].matrix->tensor());
}

double Optimizer::grad_squares(Stream& s) { return squares(s, gradients_); }

bool Optimizer::has_finite_gradient(Stream& s) { return std::isfinite(squares(s, held_)); }

double Optimizer::squares(Stream& s, const std::vector<Tensor>& gradients) {
  zero(s, sum_1_);
  sum_squares(s, sum_1_, gradients);
  double sum = 0;
  download(s, Tensor(&sum, DType::f64, {1}), sum_1_);
  return sum;
}

void Optimizer::step(Stream& s, float lr, double norm) {
  ++steps_;
  const double clip = options_.clip_norm;
  AdamW c{lr, options_.beta1, options_.beta2, options_.eps, options_.weight_decay, 1, steps_};
  if (clip > 0 && norm > clip) c.grad_scale = static_cast<float>(clip / (norm + 1e-6));
  adamw_step(s, updated_, c);
  for (const Tensor& gradient : others_) zero(s, gradient);
}

void Optimizer::refresh_working(Stream& s) {
  if (!master_) return;
  const std::vector<Param> working = parameters(model_.weights), master = parameters(master_->weights);
  for (size_t i = 0; i < working.size(); ++i) {
    const Matrix& w = *working[i].matrix;
    if (working[i].kind == ParamKind::router_bias || !is_in(share_.owned, i)) continue;
    if (w.format == Format::fp8_128)
      quantize_weight(s, w, master[i].matrix->tensor(), false);
    else
      copy(s, w.tensor(), master[i].matrix->tensor());
  }
}

size_t Optimizer::bytes(const HfConfig& c, int64_t mtp_modules, Precision precision) {
  const size_t trees = precision == Precision::f32 ? 1 : 2;
  return trees * model_bytes(c, mtp_modules, Precision::f32) + moment_bytes(c, mtp_modules, precision) + kSumBytes;
}

size_t Optimizer::moment_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision) {
  return bytes_of_moments(weight_shapes(c, mtp_modules), precision);
}

}  // namespace sluice
