// The GPU as the rest of base sees it: no CUDA type here. Defined in builds with CUDA only.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "base/tensor.h"

namespace sluice::cuda {

/// A queue of kernels on one GPU (base/cuda/queue.h).
class Queue;

/// As in base/device.h.
std::string why_unusable(int device);
size_t free_memory(int device);

/// Memory of the GPU, at least 256-byte aligned, zero. Throws Error when there is too little.
void* allocate(int device, size_t bytes);
void release(int device, void* memory);

/// Memory of the host that the GPU reads and writes at the same address. Throws Error when there is too little.
void* allocate_shared(size_t bytes);
void release_shared(void* memory);

/// Throws Error when the GPU cannot be used.
std::shared_ptr<Queue> open_queue(int device);
/// Waits for all kernels. Throws Error with what one of them met.
void synchronize(Queue& queue);

enum class Direction { to_device, to_host };
/// `to` = `from`, of one dtype and shape, rows may be strided; behind all kernels of the queue, and waits for it.
void transfer(Queue& queue, const Tensor& to, const Tensor& from, Direction direction);

/// A point in the order of the queue.
std::shared_ptr<const void> mark(Queue& queue);
/// Both must have been reached.
double seconds_between(const std::shared_ptr<const void>& begin, const std::shared_ptr<const void>& end);

/// As in base/recording.h.
class Graph;
std::shared_ptr<const Graph> record(Queue& queue, const std::function<void()>& queue_ops);
bool is_current(const Queue& queue, const Graph& graph);
void replay(Queue& queue, const Graph& graph);

}  // namespace sluice::cuda
