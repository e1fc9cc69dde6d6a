// From the contract of an op to the kernel of the stream's device.
#pragma once
#include <utility>

#include "base/config.h"
#include "base/stream.h"

namespace sluice {

/// Calls the kernel of the stream's device; nothing on a dry stream. Builds without CUDA never refer to `Cuda`.
template <auto Cpu, auto Cuda, class... Args>
void dispatch(Stream& s, Args&&... args) {
  if (s.is_dry()) return;
  if constexpr (kHasCuda)
    if (s.is_cuda()) return Cuda(s, std::forward<Args>(args)...);
  Cpu(s, std::forward<Args>(args)...);
}

}  // namespace sluice
