// Where an op runs. The first argument of every op.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/device.h"
#include "base/thread_pool.h"

namespace sluice {

namespace cuda {
class Queue;
}
class OpTimes;

/// A queue of ops on one device with its threads and scratch memory. On the CPU an op is finished when it returns. On a
/// GPU it is queued: ops see what those before them have written, the host sees it after synchronize() or download()
/// (base/transfer.h).
class Stream {
 public:
  /// A CPU stream of `threads` >= 1 threads.
  explicit Stream(int threads);
  /// A stream of `device`; `threads` do the work that is left to the host. Throws Error when the device is not usable.
  Stream(const Device& device, int threads);
  /// A stream on which ops check their arguments and do nothing: with Arena::counting() it measures memory.
  static Stream dry();

  bool is_dry() const { return pool_ == nullptr; }
  bool is_cuda() const { return queue_ != nullptr; }
  const Device& device() const { return device_; }
  /// Of a GPU's stream: what kernels are launched with.
  cuda::Queue& queue() { return *queue_; }
  /// Waits until all ops are finished. Throws Error with what one of them met on the GPU.
  void synchronize();
  ThreadPool& pool() { return *pool_; }
  int threads() const { return pool_ ? pool_->size() : 1; }

  /// Where ops note how long they take (base/op_times.h), until another or null is set. Not owned.
  void set_times(OpTimes* times) { times_ = times; }
  OpTimes* times() const { return times_; }

  /// Scratch of `count` floats, 64-byte aligned, private to `thread` of the pool; valid until the thread asks again.
  float* scratch(int thread, size_t count);
  /// The same, one block for all threads of an op; valid until the next op asks.
  float* shared_scratch(size_t count) { return scratch(threads(), count); }

 private:
  Stream() = default;
  struct Free {
    void operator()(float* p) const;
  };
  struct Block {
    std::unique_ptr<float, Free> data;
    size_t count = 0;
  };
  Device device_;
  std::shared_ptr<cuda::Queue> queue_;  // of a GPU
  std::unique_ptr<ThreadPool> pool_;
  std::vector<Block> scratch_;
  OpTimes* times_ = nullptr;
};

/// Runs fn(begin, end, thread) over [0, n) in pieces of `grain`.
template <class F>
void parallel_for(Stream& s, int64_t n, int64_t grain, F&& fn) {
  s.pool().run((n + grain - 1) / grain,
               [&](int64_t task, int thread) { fn(task * grain, std::min(n, (task + 1) * grain), thread); });
}

}  // namespace sluice
