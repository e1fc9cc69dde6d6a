// What a training run shows on the terminal while it works.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "formats/metrics_json.h"

namespace sluice {

/// "47 s", "2 min 54 s", "3 h 05 min", "2 d 07 h"; "?" where it is negative, NaN or beyond 100 years.
std::string format_duration(double seconds);

/// Three digits and a decimal prefix, "12.3k", "4.13M", "682G"; below 1000 no prefix. `separator` stands between number
/// and prefix: format_si(x, " ") + "FLOP/s" is "45.6 GFLOP/s".
std::string format_si(double value, const char* separator = "");

/// One line of at most `width` columns (bytes: it is ASCII): steps, bar, loss, tokens/s, FLOP/s, time left. What does
/// not fit is left out, the least important first. `seconds_left` < 0: unknown.
std::string progress_line(const StepMetrics& m, int64_t total_steps, double seconds_left, int width, bool with_bar);

/// Draws that line on `out`, on itself when `out` is a terminal (at most ten times a second, cut to its width), else as
/// a plain line at most every ten seconds. For one thread.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  /// `out` must outlive this object; usually stderr.
  Progress(std::FILE* out, int64_t total_steps);
  /// A new plan of how many steps there will be.
  void set_total(int64_t total_steps) { total_steps_ = total_steps; }
  /// After each step. Time left comes from the wall time of the last 50 steps.
  void update(const StepMetrics& m, Clock::time_point now = Clock::now());
  /// Prints `text` and a newline above the bar: evaluations, samples, "saved".
  void note(std::string_view text);
  /// Draws the last step, whatever time has passed, and ends the line. Idempotent.
  void finish();

 private:
  void draw();
  double seconds_left(Clock::time_point now) const;

  std::FILE* out_;
  int64_t total_steps_;
  bool is_terminal_;
  StepMetrics last_;
  double last_seconds_left_ = -1;
  bool is_drawn_ = true;  // whether last_ is on the screen
  std::optional<Clock::time_point> drawn_at_;
  std::deque<std::pair<int64_t, Clock::time_point>> recent_;  // steps and when they ended
};

}  // namespace sluice
