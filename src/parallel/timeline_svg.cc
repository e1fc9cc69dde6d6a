#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "parallel/timeline.h"

namespace sluice {
namespace {

constexpr double kLeft = 56, kTop = 34, kRow = 26, kBox = 22, kLegendStep = 136;  // pixels
constexpr double kMinWidth = 720, kPhasesWidth = 1800, kMaxWidth = 4000;          // of the time axis
constexpr double kMinBox = 16;                                                    // of the shortest action, if it fits
constexpr double kDigit = 6.5;                                                    // of a label

struct Colour {
  Step step;
  int chunk;
  const char* fill;
  const char* meaning;
};

// The second chunk (the other direction, or the way back) is darker.
constexpr Colour kColours[] = {{Step::F, 0, "#9ec5f4", "forward"},      {Step::F, 1, "#5b8fd6", "forward, chunk b"},
                               {Step::B, 0, "#8fd19e", "backward"},     {Step::B, 1, "#4da167", "backward, chunk b"},
                               {Step::Bi, 0, "#cfe9a9", "input grad."}, {Step::Bi, 1, "#a9cf72", "input grad., b"},
                               {Step::W, 0, "#f6dc97", "weight grad."}, {Step::W, 1, "#dcb455", "weight grad., b"}};

const char* fill(Step step, int chunk) {
  for (const Colour& c : kColours)
    if (c.step == step && c.chunk == chunk) return c.fill;
  return "#999999";
}

/// Time -> pixels.
class Scale {
 public:
  explicit Scale(const Timeline& timeline) : total_(total_seconds(timeline)) {
    double shortest = total_, least = kMinWidth;
    for (const auto& spans : timeline.ranks)
      for (const Span& s : spans)
        if (s.phase >= 0)
          least = kPhasesWidth;  // of a phase that takes no time nothing needs to be seen
        else if (s.end > s.begin)
          shortest = std::min(shortest, s.end - s.begin);
    if (total_ > 0) per_second_ = std::clamp(kMinBox * total_ / shortest, least, kMaxWidth) / total_;
  }
  double x(double seconds) const { return kLeft + seconds * per_second_; }
  double width() const { return x(total_) + 12; }

 private:
  double total_, per_second_ = 0;
};

void append_box(std::string& out, const Scale& scale, const Span& s, double y, double height, const char* colour) {
  fmt::format_to(std::back_inserter(out),
                 "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", scale.x(s.begin),
                 y, std::max(scale.x(s.end) - scale.x(s.begin), 0.1), height, colour);
}

/// The number of the micro-batch, where there is room for it.
void append_label(std::string& out, const Scale& scale, const Span& s, double y, int micro) {
  const std::string text = fmt::format("{}", micro);
  if (scale.x(s.end) - scale.x(s.begin) < kDigit * static_cast<double>(text.size()) + 2) return;
  fmt::format_to(std::back_inserter(out), "<text x=\"{:.2f}\" y=\"{:.1f}\">{}</text>\n",
                 (scale.x(s.begin) + scale.x(s.end)) / 2, y, text);
}

void append_span(std::string& out, const Scale& scale, const Span& s, double y) {
  const Action& a = s.action;
  fmt::format_to(std::back_inserter(out), "<g><title>{} {:.6g} to {:.6g} s</title>\n", span_name(s), s.begin, s.end);
  if (a.step == Step::FB) {
    append_box(out, scale, s, y, kBox / 2, fill(Step::F, a.chunk));
    append_box(out, scale, s, y + kBox / 2, kBox / 2, fill(Step::B, a.other_chunk));
    append_label(out, scale, s, y + 9, a.micro);
    append_label(out, scale, s, y + 20, a.other_micro);
  } else if (s.is_paired) {
    const double down = a.step == Step::F ? 0 : kBox / 2;
    append_box(out, scale, s, y + down, kBox / 2, fill(a.step, a.chunk));
    append_label(out, scale, s, y + down + 9, a.micro);
  } else {
    append_box(out, scale, s, y, kBox, fill(a.step, a.chunk));
    append_label(out, scale, s, y + 15, a.micro);
  }
  out += "</g>\n";
}

/// Only what occurs; returns the width it takes.
double append_legend(std::string& out, const Timeline& timeline) {
  const auto occurs = [&](const Colour& c) {
    for (const auto& spans : timeline.ranks)
      for (const Span& s : spans) {
        const Action& a = s.action;
        const bool is_pair = a.step == Step::FB;
        if ((is_pair ? c.step == Step::F : c.step == a.step) && a.chunk == c.chunk) return true;
        if (is_pair && c.step == Step::B && a.other_chunk == c.chunk) return true;
      }
    return false;
  };
  double x = kLeft;
  for (const Colour& c : kColours) {
    if (!occurs(c)) continue;
    fmt::format_to(std::back_inserter(out),
                   "<rect x=\"{0:.0f}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{1}\"/>"
                   "<text class=\"l\" x=\"{2:.0f}\" y=\"20\">{3}</text>\n",
                   x, c.fill, x + 16, c.meaning);
    x += kLegendStep;
  }
  return x;
}

}  // namespace

std::string timeline_svg(const Timeline& timeline) {
  const Scale scale(timeline);
  std::string body;
  const double legend = append_legend(body, timeline);
  for (size_t rank = 0; rank < timeline.ranks.size(); ++rank) {
    const double y = kTop + kRow * static_cast<double>(rank);
    fmt::format_to(std::back_inserter(body), "<text class=\"l\" x=\"8\" y=\"{:.1f}\">rank {}</text>\n", y + 15, rank);
    for (const Span& s : timeline.ranks[rank]) append_span(body, scale, s, y);
  }
  const double height = kTop + kRow * static_cast<double>(timeline.ranks.size()) + 26;
  fmt::format_to(std::back_inserter(body), "<text class=\"l\" x=\"{:.0f}\" y=\"{:.0f}\">{:.6g} s</text>\n", kLeft,
                 height - 10, total_seconds(timeline));
  const double width = std::max(scale.width(), legend);
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
             "{1:.0f}\">\n<style>text{{font:10px sans-serif;text-anchor:middle}}.l{{font-size:12px;text-anchor:start}}"
             "rect{{stroke:#fff;stroke-width:.5}}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
             width, height) +
         body + "</svg>\n";
}

}  // namespace sluice
