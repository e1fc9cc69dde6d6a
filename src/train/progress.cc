#include "train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kRecentSteps = 50;
constexpr int kMaxBar = 30, kMinBar = 8;
constexpr int kMaxWidth = 160;

int terminal_width(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return std::min<int>(size.ws_col, kMaxWidth);
}

/// "[=====>    ]", `width` columns with its brackets.
std::string bar(double fraction, int width) {
  const int inner = width - 2;
  const int full = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * inner);
  std::string out = '[' + std::string(static_cast<size_t>(full), '=');
  if (full < inner) out += '>' + std::string(static_cast<size_t>(inner - full - 1), ' ');
  return out + ']';
}

/// A field and how soon it gives way when the line is too long (0: never).
struct Field {
  int rank;
  std::string text;
};

int joined_length(const std::vector<Field>& fields) {
  int length = 0;
  for (const Field& f : fields) length += static_cast<int>(f.text.size()) + (length ? 2 : 0);
  return length;
}

void drop_until_it_fits(std::vector<Field>& fields, int width) {
  while (joined_length(fields) > width) {
    const auto worst = std::max_element(fields.begin(), fields.end(), [](auto& a, auto& b) { return a.rank < b.rank; });
    if (worst->rank == 0) return;
    fields.erase(worst);
  }
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 100 * 365.25 * 86400) return "?";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
  return fmt::format("{} d {:02} h", s / 86400, s % 86400 / 3600);
}

std::string format_si(double value, const char* separator) {
  constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  if (!std::isfinite(value)) return fmt::format("?{}", separator);
  size_t i = 0;
  // 999.5 would be rounded to four digits.
  for (; std::fabs(value) >= 999.5 && i + 1 < std::size(kPrefixes); ++i) value /= 1000;
  const double size = std::fabs(value);
  const int decimals = i == 0 && value == std::floor(value) ? 0 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}{}", value, decimals, separator, kPrefixes[i]);
}

std::string progress_line(const StepMetrics& m, int64_t total_steps, double seconds_left, int width, bool with_bar) {
  const double fraction = total_steps > 0 ? static_cast<double>(m.step) / static_cast<double>(total_steps) : 0;
  std::vector<Field> fields = {
      {0, fmt::format("step {}/{}", m.step, total_steps)}, {3, bar(fraction, kMinBar)},
      {1, fmt::format("loss {:.3f}", m.loss_main)},        {4, format_si(m.tokens_per_second) + " tok/s"},
      {5, format_si(m.flops_per_second, " ") + "FLOP/s"},  {2, format_duration(seconds_left) + " left"}};
  if (seconds_left < 0) fields.pop_back();
  if (!with_bar) fields.erase(fields.begin() + 1);
  drop_until_it_fits(fields, width);
  if (fields.size() > 1 && fields[1].rank == 3)
    fields[1].text = bar(fraction, std::min(kMaxBar, kMinBar + width - joined_length(fields)));
  std::string line;
  for (const Field& f : fields) line += (line.empty() ? "" : "  ") + f.text;
  return line.substr(0, static_cast<size_t>(std::max(width, 0)));
}

Progress::Progress(std::FILE* out, int64_t total_steps)
    : out_(out), total_steps_(total_steps), is_terminal_(isatty(fileno(out)) == 1) {}

double Progress::seconds_left(Clock::time_point now) const {
  if (recent_.size() < 2) return -1;
  const auto& [step, time] = recent_.front();
  const int64_t steps = last_.step - step;
  if (steps <= 0) return -1;
  const double seconds = std::chrono::duration<double>(now - time).count();
  return seconds / static_cast<double>(steps) * static_cast<double>(std::max<int64_t>(total_steps_ - last_.step, 0));
}

void Progress::update(const StepMetrics& m, Clock::time_point now) {
  last_ = m;
  last_.expert_load.clear();
  is_drawn_ = false;
  recent_.emplace_back(m.step, now);
  if (recent_.size() > kRecentSteps) recent_.pop_front();
  last_seconds_left_ = seconds_left(now);
  const auto interval = is_terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(10000);
  if (drawn_at_ && now - *drawn_at_ < interval) return;
  drawn_at_ = now;
  draw();
}

void Progress::draw() {
  if (is_terminal_) {
    // One column stays free: writing in the last one makes some terminals wrap.
    const std::string line = progress_line(last_, total_steps_, last_seconds_left_, terminal_width(out_) - 1, true);
    fmt::print(out_, "\r{}\x1b[K", line);
  } else {
    fmt::print(out_, "{}\n", progress_line(last_, total_steps_, last_seconds_left_, kMaxWidth, false));
  }
  std::fflush(out_);
  is_drawn_ = true;
}

void Progress::note(std::string_view text) {
  if (!is_terminal_) {
    fmt::print(out_, "{}\n", text);
  } else {
    fmt::print(out_, "\r\x1b[K{}\n", text);
    if (drawn_at_) draw();
  }
  std::fflush(out_);
}

void Progress::finish() {
  if (!drawn_at_) return;
  if (!is_drawn_) draw();
  if (is_terminal_) fmt::print(out_, "\n");
  std::fflush(out_);
  drawn_at_.reset();
}

}  // namespace sluice
