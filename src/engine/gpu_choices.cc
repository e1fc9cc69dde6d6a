#include "engine/gpu_choices.h"

#include "base/transfer.h"
#include "ops/elementwise.h"

namespace sluice {
namespace {

std::vector<const Matrix*> routers(const ModelWeights& w) {
  std::vector<const Matrix*> list;
  for (const BlockWeights& b : w.layers)
    if (b.is_moe) list.push_back(&b.moe.router);
  for (const MtpWeights& m : w.mtp)
    if (m.block.is_moe) list.push_back(&m.block.moe.router);
  return list;
}

}  // namespace

GpuChoices::GpuChoices(Stream& s, const ModelWeights& host, const ModelWeights& there, int64_t rows, int64_t top_k)
    : s_(s), top_k_(top_k), memory_(0) {
  for (const BlockWeights& b : host.layers)
    if (b.is_moe) layer_routers_.push_back(&b.moe.router);
  const std::vector<const Matrix*> from = routers(there), to = routers(host);
  for (size_t i = 0; i < from.size(); ++i) host_router_[from[i]->data] = to[i];
  const int64_t most = static_cast<int64_t>(from.size()) * rows * top_k;
  memory_ = Arena(static_cast<size_t>(most) * sizeof(int32_t) + 64, s.device());
  choices_ = memory_.alloc(DType::i32, {most});
}

void GpuChoices::add(const Tensor& choice_TK, const Matrix& router) {
  const Tensor place(choices_.at(0, used_), DType::i32, {choice_TK.rows(), choice_TK.cols()});
  check(used_ + choice_TK.size() <= choices_.size(), "GpuChoices::add: expected the layers of one pass");
  copy(s_, place, choice_TK);
  used_ += choice_TK.size();
  layers_.push_back({host_router_.at(router.data), choice_TK.rows(), choice_TK.cols()});
}

void GpuChoices::add_recorded(int64_t rows) {
  for (const Matrix* router : layer_routers_) layers_.push_back({router, rows, top_k_});
  used_ += static_cast<int64_t>(layer_routers_.size()) * rows * top_k_;
}

void GpuChoices::give(const RouteObserver& observer) {
  std::vector<int32_t> host(static_cast<size_t>(used_));
  const Tensor all(host.data(), DType::i32, {used_});
  if (used_ > 0) download(s_, all, choices_.first(used_));
  int32_t* next = host.data();
  for (const Layer& l : layers_) {
    observer(Tensor(next, DType::i32, {l.rows, l.cols}), *l.router);
    next += l.rows * l.cols;
  }
  clear();
}

void GpuChoices::clear() {
  used_ = 0;
  layers_.clear();
}

}  // namespace sluice
