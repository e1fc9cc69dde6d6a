#include "engine/recorded_passes.h"

#include <algorithm>

namespace sluice {
namespace {

constexpr size_t kMostPasses = 64;

}  // namespace

bool RecordedPasses::run(Stream& s, const Key& key, Projector& projector, const std::function<void()>& queue_ops) {
  const auto found = std::find_if(passes_.begin(), passes_.end(), [&](const Pass& p) { return p.key == key; });
  if (found == passes_.end()) {
    queue_ops();  // grows scratch memory as it is needed
    passes_.push_front({key, std::nullopt, {}});
    if (passes_.size() > kMostPasses) passes_.pop_back();
    return true;
  }
  passes_.splice(passes_.begin(), passes_, found);
  Pass& pass = passes_.front();
  if (pass.recording && pass.recording->is_current(s)) {
    pass.recording->replay(s);
    projector.add_work(pass.work);
    return false;
  }
  const Projector::Work before = projector.work();
  pass.recording.reset();
  pass.recording.emplace(s, queue_ops);
  pass.work = {projector.work().bytes - before.bytes, projector.work().operations - before.operations};
  pass.recording->replay(s);
  return true;
}

}  // namespace sluice
