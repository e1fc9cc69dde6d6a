#include "base/recording.h"

#include "base/config.h"
#include "base/cuda/runtime.h"
#include "base/error.h"

namespace sluice {

Recording::Recording(Stream& s, const std::function<void()>& queue_ops) {
  check(s.is_cuda(), "Recording: expected a GPU's stream");
  if constexpr (kHasCuda) graph_ = cuda::record(s.queue(), queue_ops);
}

bool Recording::is_current(Stream& s) const {
  if constexpr (kHasCuda) return cuda::is_current(s.queue(), *graph_);
  return false;
}

void Recording::replay(Stream& s) const {
  if constexpr (kHasCuda) cuda::replay(s.queue(), *graph_);
}

}  // namespace sluice
