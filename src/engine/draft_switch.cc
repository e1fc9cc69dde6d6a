#include "engine/draft_switch.h"

#include <algorithm>

#include "base/error.h"

namespace sluice {

double DraftSwitch::Times::median() const {
  std::array<double, kKept> sorted = last_;
  const size_t n = std::min(count_, kKept);
  const auto middle = sorted.begin() + static_cast<ptrdiff_t>((n - 1) / 2);
  std::nth_element(sorted.begin(), middle, sorted.begin() + static_cast<ptrdiff_t>(n));
  return *middle;
}

void DraftSwitch::add(int64_t rows, int64_t tokens, double seconds) {
  check(rows >= 1 && rows <= 1 + kMostDrafts, "DraftSwitch: expected 1 to 4 rows");
  if (rows == 1) {
    add_plain(seconds);
  } else {
    add_drafted(rows, tokens, seconds);
  }
}

void DraftSwitch::add_plain(double seconds) {
  since_plain_ = 0;
  if (!warm_) {
    warm_ = true;
    return;
  }
  times_[1].add(seconds);
  if (on_) return;
  waited_ += seconds;
  if (times_[1].count() < kFirstPlain || waited_ < kRareness * spent_) return;
  on_ = tried_ = catching_up_ = true;
  balance_ = spent_ = 0;
  std::fill(times_.begin() + 2, times_.end(), Times());  // what was measured in the last try may be long ago
}

void DraftSwitch::add_drafted(int64_t rows, int64_t tokens, double seconds) {
  check(on_, "DraftSwitch: expected no drafts while it is off");
  ++since_plain_;
  const double plain = times_[1].median(), saved = static_cast<double>(tokens) * plain;
  if (catching_up_) {
    catching_up_ = false;
    spent_ = std::max(0.0, seconds - saved);
    return;
  }
  Times& times = times_[static_cast<size_t>(rows)];
  times.add(seconds);
  // One time alone may be that of an interrupted pass: the first waits for the second.
  double gain = saved - times.median();
  double& first_saved = first_saved_[static_cast<size_t>(rows)];
  if (times.count() == 1) {
    first_saved = saved;
    return;
  }
  if (times.count() == 2) gain += first_saved - times.median();
  balance_ = std::min(balance_ + gain, kMostCredit * plain);
  spent_ = std::max(0.0, spent_ - gain);
  if (balance_ > -kPatience * plain) return;
  on_ = false;
  waited_ = 0;
}

}  // namespace sluice
