// What kernels are launched with. For files in folders named cuda only.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

#include "base/cuda/runtime.h"

namespace sluice::cuda {

/// Throws Error "GPU: <what>: <CUDA's text>" unless `status` is success.
void check_cuda(cudaError_t status, const char* what);

/// A CUDA stream and scratch memory for the op that is being queued. Ops run in the order in which they are queued and
/// return before they have run; an error of a kernel shows in a later call.
class Queue {
 public:
  explicit Queue(int device);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  /// The stream, with its GPU as the calling thread's current one.
  cudaStream_t stream();

  /// `bytes` of GPU memory, 256-byte aligned; valid for kernels queued before the next call. Grows as needed, in the
  /// order of the queue.
  void* scratch(size_t bytes);

  /// Where that memory lies now; null before the first call.
  const void* scratch_data() const { return scratch_; }

  /// What the library of ops/cuda/gemm_library.cc keeps from product to product.
  std::shared_ptr<void> gemm_library;

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
};

/// Deals one block of scratch memory out in pieces that are 256-byte aligned.
class Scratch {
 public:
  /// The bytes that pieces of these sizes take together.
  template <class... Sizes>
  static size_t total(Sizes... bytes) {
    return (padded(static_cast<size_t>(bytes)) + ... + 0);
  }
  Scratch(Queue& queue, size_t bytes) : next_(static_cast<char*>(queue.scratch(bytes))) {}

  /// The next `count` elements.
  template <class T>
  T* take(size_t count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += padded(count * sizeof(T));
    return piece;
  }

 private:
  static size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }
  char* next_;
};

}  // namespace sluice::cuda
