// One line on the terminal about work of known size; nothing where stderr is a file.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

namespace sluice {

/// "quantize: 43%, 81.2M weights/s, 2 min 10 s left", written over at most five times a second. add() may be called
/// from several threads at once.
class WorkLine {
 public:
  WorkLine(std::string what, std::string unit, int64_t total);
  ~WorkLine();
  WorkLine(const WorkLine&) = delete;
  WorkLine& operator=(const WorkLine&) = delete;
  void add(int64_t done);

 private:
  using Clock = std::chrono::steady_clock;
  void draw(int64_t done, Clock::time_point now);

  const std::string what_, unit_;
  const int64_t total_;
  const bool is_terminal_;
  const Clock::time_point start_ = Clock::now();
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  Clock::time_point drawn_at_ = start_;
};

}  // namespace sluice
