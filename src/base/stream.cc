#include "base/stream.h"

#include <cstdlib>
#include <new>

#include "base/config.h"
#include "base/cuda/runtime.h"

namespace sluice {

Stream::Stream(int threads)
    : pool_(std::make_unique<ThreadPool>(threads)), scratch_(static_cast<size_t>(threads) + 1) {}

Stream::Stream(const Device& device, int threads) : Stream(threads) {
  device_ = device;
  if (!device.is_cuda()) return;
  if constexpr (kHasCuda)
    queue_ = cuda::open_queue(device.index);
  else
    fail("device {}: {}", device_text(device), why_unusable(device));
}

void Stream::synchronize() {
  if constexpr (kHasCuda)
    if (queue_) cuda::synchronize(*queue_);
}

Stream Stream::dry() { return {}; }

void Stream::Free::operator()(float* p) const { std::free(p); }

float* Stream::scratch(int thread, size_t count) {
  Block& b = scratch_[static_cast<size_t>(thread)];
  if (b.count < count) {
    b.count = count + count / 4 + 1024;
    b.data.reset(static_cast<float*>(std::aligned_alloc(64, (b.count * sizeof(float) + 63) / 64 * 64)));
    if (!b.data) throw std::bad_alloc();
  }
  return b.data.get();
}

}  // namespace sluice
