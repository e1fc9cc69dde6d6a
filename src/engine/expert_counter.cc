#include "engine/expert_counter.h"

namespace sluice {

ExpertCounter::ExpertCounter(const Model& model) {
  const ModelWeights& w = model.weights;
  const auto add = [&](const BlockWeights& block, int64_t layer) {
    if (!block.is_moe) return;
    layer_of_router_[block.moe.router.data] = load_.size();
    load_.push_back({layer, std::vector<int64_t>(block.moe.gate.size())});
  };
  for (size_t l = 0; l < w.layers.size(); ++l) add(w.layers[l], static_cast<int64_t>(l));
  if (!w.mtp.empty()) add(w.mtp.front().block, static_cast<int64_t>(w.layers.size()));
}

void ExpertCounter::add(const Tensor& choice_TK, const Matrix& router) {
  const std::lock_guard lock(mutex_);
  std::vector<int64_t>& counts = load_[layer_of_router_.at(router.data)].tokens;
  for (int64_t i = 0; i < choice_TK.size(); ++i) ++counts[static_cast<size_t>(choice_TK.ptr<int32_t>()[i])];
}

std::vector<ExpertLoad> ExpertCounter::load() const {
  const std::lock_guard lock(mutex_);
  return load_;
}

}  // namespace sluice
