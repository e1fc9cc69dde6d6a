// Passes of text on a GPU, token after token the same ops on the same memory: recorded when one comes again.
#pragma once
#include <functional>
#include <list>
#include <optional>

#include "base/recording.h"
#include "engine/project.h"

namespace sluice {

class RecordedPasses {
 public:
  /// What decides which ops a pass queues, and where its tensors lie.
  struct Key {
    int64_t rows = 0, sequences = 0, pages = 0, drawn = 0;
    bool is_observed = false;
    bool operator==(const Key&) const = default;
  };

  /// Queues a pass, by calling `queue_ops` unless it is recorded; `projector` then counts what it counted when it was.
  /// False: `queue_ops` was not called.
  bool run(Stream& s, const Key& key, Projector& projector, const std::function<void()>& queue_ops);

 private:
  struct Pass {
    Key key;
    std::optional<Recording> recording;  // from its second time on
    Projector::Work work;
  };
  std::list<Pass> passes_;  // the latest first
};

}  // namespace sluice
