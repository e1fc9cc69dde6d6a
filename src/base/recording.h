// Ops that were queued once and are queued again by one call: each costs the host microseconds, and a pass has
// hundreds.
#pragma once
#include <functional>
#include <memory>

#include "base/stream.h"

namespace sluice {

namespace cuda {
class Graph;
}

/// What a function queues on a GPU's stream, with its arguments as they were then: tensors must lie where they lay.
class Recording {
 public:
  /// Calls `queue_ops`, whose ops do not run now. The same must have been queued before, so that scratch memory is
  /// large enough; it may not wait for the stream. Throws Error when it throws, and what CUDA meets.
  Recording(Stream& s, const std::function<void()>& queue_ops);

  /// Whether scratch memory is where it was; if not, it is of no use any more.
  bool is_current(Stream& s) const;
  /// Queues the ops.
  void replay(Stream& s) const;

 private:
  std::shared_ptr<const cuda::Graph> graph_;
};

}  // namespace sluice
