// AdamW over a whole model (specification 7.3), with float32 masters where the working weights are bf16 or FP8.
#pragma once
#include <cmath>
#include <optional>

#include "model/model.h"
#include "ops/optim.h"

namespace sluice {

struct OptimizerOptions {
  float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f;
  float clip_norm = 1.0f;       // of the gradient of the whole model; 0: no clipping
  bool sets_gradients = false;  // PassOptions::gradients of a step's first micro-batch: what is set then is not zeroed
};

/// What of a model is this rank's, where there are several.
struct RankShare {
  ParamMask held;   // computed with here, so that they have gradients
  ParamMask owned;  // of these, whose masters and moments are here (ZeRO-1)
};

class Optimizer {
 public:
  /// Takes float32 masters from the working weights of `model` (which must outlive it), moments 0. Moments are bf16
  /// unless the precision is f32 (specification 5.1). Memory of what is not in `share` stays untouched.
  Optimizer(Stream& s, Model& model, const OptimizerOptions& options, RankShare share = {});

  /// Gradients: add to them. Zero at the start and after step().
  ModelWeights& grad() { return grad_.weights; }
  void zero_grad(Stream& s);

  /// Sum of the squares of the gradient of what is owned, before clipping (router biases have none).
  double grad_squares(Stream& s);
  /// Whether the gradient of all that is held is made of numbers.
  bool has_finite_gradient(Stream& s);
  /// Norm of the gradient where all of it is here.
  double grad_norm(Stream& s) { return std::sqrt(grad_squares(s)); }

  /// One update of what is owned with learning rate `lr`, given the norm of the whole gradient: clips, updates masters
  /// and moments, writes the working weights, zeroes the gradients. Router biases are left alone.
  void step(Stream& s, float lr, double grad_norm);

  /// Updates done so far, as after loading a checkpoint.
  void set_steps(int64_t steps) { steps_ = steps; }
  int64_t steps() const { return steps_; }

  /// The float32 weights: the model's own under f32. Router biases are the model's own in any case.
  ModelWeights& master() { return master_ ? master_->weights : model_.weights; }
  /// Moment trees, in the shapes of the model; f32 or bf16.
  ModelWeights& first_moment() { return first_; }
  ModelWeights& second_moment() { return second_; }
  /// Writes the working weights from the masters, as after loading a checkpoint.
  void refresh_working(Stream& s);
  const ParamMask& owned() const { return share_.owned; }
  const ParamMask& held() const { return share_.held; }

  /// Bytes that masters, gradients and moments of a model take.
  static size_t bytes(const HfConfig& c, int64_t mtp_modules, Precision precision);
  /// Bytes of both moments alone.
  static size_t moment_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision);

 private:
  double squares(Stream& s, const std::vector<Tensor>& gradients);
  void take_masters(Stream& s);
  void list_tensors();

  Model& model_;
  OptimizerOptions options_;
  RankShare share_;
  std::optional<Model> master_;
  Model grad_;
  ModelWeights first_, second_;
  Arena moments_{0};
  Tensor sum_1_;                      // f64: of the squares of the gradient
  std::vector<AdamWTensor> updated_;  // what is owned and optimised
  std::vector<Tensor> gradients_;     // of these
  std::vector<Tensor> held_;          // of all that is computed with here
  std::vector<Tensor> others_;        // gradients of what is held and not among these
  int64_t steps_ = 0;
};

}  // namespace sluice
