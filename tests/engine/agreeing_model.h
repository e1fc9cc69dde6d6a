// A model for tests of drafting.
#pragma once
#include "fixture.h"

namespace sluice::test {

/// A model whose MTP module often agrees with it: a copy of "mtp" in which the layers add little, so that the main
/// model sees little more than the last token and the module little more than the one after it.
class Agreeing {
 public:
  Agreeing() : model_(load_model(stream(1), golden_folder("mtp"), Precision::f32)) {
    MtpWeights& m = model_.weights.mtp[0];
    for (const Param& p : parameters(model_.weights)) {
      float* w = p.matrix->tensor().f32();
      const int64_t D = p.matrix->cols;
      for (int64_t i = 0; i < p.matrix->size(); ++i) {
        if (p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight")) w[i] *= 0.07f;
        if (p.matrix == &m.eh_proj) w[i] = i / D == i % D ? 1.0f : 0.0f;
        if (p.matrix == &m.enorm) w[i] = 1;
        if (p.matrix == &m.head_norm) w[i] = model_.weights.norm.tensor().f32()[i];
      }
    }
  }
  const Model& model() const { return model_; }

 private:
  Model model_;
};

inline const Model& agreeing() {
  static const Agreeing a;
  return a.model();
}

}  // namespace sluice::test
