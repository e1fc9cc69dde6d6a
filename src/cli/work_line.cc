#include "cli/work_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include "train/progress.h"

namespace sluice {

WorkLine::WorkLine(std::string what, std::string unit, int64_t total)
    : what_(std::move(what)), unit_(std::move(unit)), total_(total), is_terminal_(isatty(STDERR_FILENO) == 1) {}

WorkLine::~WorkLine() {
  if (!is_terminal_) return;
  draw(done_, Clock::now());
  fmt::print(stderr, "\n");
}

void WorkLine::add(int64_t done) {
  const int64_t all = done_ += done;
  if (!is_terminal_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  const auto now = Clock::now();
  if (!lock || now - drawn_at_ < std::chrono::milliseconds(200)) return;
  drawn_at_ = now;
  draw(all, now);
}

void WorkLine::draw(int64_t done, Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = static_cast<double>(done) / seconds, left = static_cast<double>(total_ - done) / rate;
  fmt::print(stderr, "\r\x1b[K{}: {:.0f}%, {}{}/s, {} left", what_,
             100.0 * static_cast<double>(done) / static_cast<double>(total_), format_si(rate), " " + unit_,
             format_duration(left));
}

}  // namespace sluice
