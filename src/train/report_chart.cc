// Line charts. The plot is an SVG of 1000 x 1000 units stretched to its box (strokes keep their width), labels are HTML
// placed in percent: so text keeps its size on narrow screens, without a script.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "formats/json_lines.h"
#include "train/report_html.h"

namespace sluice {
namespace {

constexpr size_t kMaxPoints = 300;

/// A curve reduced to at most kMaxPoints buckets.
struct Points {
  std::vector<double> x, mean, lo, hi;
  bool has_band = false;
};

struct Axis {
  double lo = 0, hi = 1;
  bool is_log = false;
  std::vector<double> ticks;
  /// 0 at the low end, 1 at the high end.
  double at(double v) const {
    const double a = is_log ? std::log(std::max(v, lo) / lo) / std::log(hi / lo) : (v - lo) / (hi - lo);
    return std::clamp(a, 0.0, 1.0);
  }
};

Points reduce(const Curve& c) {
  Points p;
  const size_t n = c.x.size(), buckets = std::min(n, kMaxPoints);
  p.has_band = n > buckets;
  for (size_t b = 0; b < buckets; ++b) {
    double x = 0, sum = 0, lo = INFINITY, hi = -INFINITY;
    const size_t begin = b * n / buckets, end = (b + 1) * n / buckets;
    int count = 0;
    for (size_t i = begin; i < end; ++i) {
      x += c.x[i] / static_cast<double>(end - begin);
      if (!std::isfinite(c.y[i])) continue;
      sum += c.y[i], ++count;
      lo = std::min(lo, c.y[i]), hi = std::max(hi, c.y[i]);
    }
    p.x.push_back(x);
    p.mean.push_back(count ? sum / count : std::numeric_limits<double>::quiet_NaN());
    p.lo.push_back(lo);
    p.hi.push_back(hi);
  }
  return p;
}

std::vector<double> log_ticks(double lo, double hi) {
  std::vector<double> ticks;
  const bool is_short = hi / lo < 100;  // whole decades alone would be one or two
  for (double decade = std::pow(10, std::floor(std::log10(lo))); decade <= hi; decade *= 10)
    for (const double m : {1.0, 2.0, 5.0})
      if (const double v = decade * m; v >= lo && v <= hi && (m == 1 || is_short)) ticks.push_back(v);
  while (ticks.size() > 7) {  // every other decade
    for (size_t i = 0; i < ticks.size(); ++i) ticks[i / 2] = ticks[i - i % 2];
    ticks.resize((ticks.size() + 1) / 2);
  }
  return ticks;
}

/// An axis for the finite values of all curves; false when there is none.
bool fit_axis(const std::vector<Points>& curves, AxisScale scale, int count, Axis& axis) {
  double lo = INFINITY, hi = -INFINITY;
  for (const Points& p : curves)
    for (size_t i = 0; i < p.x.size(); ++i) lo = std::min(lo, p.lo[i]), hi = std::max(hi, p.hi[i]);
  if (lo > hi) return false;
  if (scale == AxisScale::log && lo > 0 && hi / lo > 20) {
    axis = {.lo = lo / 1.1, .hi = hi * 1.1, .is_log = true, .ticks = log_ticks(lo / 1.1, hi * 1.1)};
    return true;
  }
  if (scale == AxisScale::from_zero && lo >= 0) lo = 0;
  if (lo == hi) hi = lo + std::max(std::fabs(lo) * 0.1, 1e-6);
  const std::vector<double> inner = round_ticks(lo, hi, count);
  const double step = inner.size() > 1 ? inner[1] - inner[0] : hi - lo;
  axis = {.lo = std::floor(lo / step + 1e-9) * step, .hi = std::ceil(hi / step - 1e-9) * step, .ticks = {}};
  const auto steps = static_cast<int>(std::lround((axis.hi - axis.lo) / step));
  for (int i = 0; i <= steps; ++i) axis.ticks.push_back(axis.lo + i * step);
  return true;
}

/// Numbers of a path: tenths of a unit are finer than any screen needs.
std::string coordinate(double v) { return fmt::format("{:.{}f}", v, v == std::round(v) ? 0 : 1); }

std::string point(const Axis& x, const Axis& y, double px, double py) {
  return coordinate(1000 * x.at(px)) + ' ' + coordinate(1000 - 1000 * y.at(py));
}

std::string line_path(const Points& p, const Axis& x, const Axis& y) {
  std::string d;
  bool is_open = false;
  for (size_t i = 0; i < p.x.size(); ++i) {
    if (!std::isfinite(p.mean[i])) {
      is_open = false;
      continue;
    }
    d += (is_open ? 'L' : 'M') + point(x, y, p.x[i], p.mean[i]);
    // A lone point shows as a dot: its line has a length of zero and round ends.
    if (!is_open && (i + 1 == p.x.size() || !std::isfinite(p.mean[i + 1]))) d += "h0";
    is_open = true;
  }
  return d;
}

std::string dots_path(const Points& p, const Axis& x, const Axis& y) {
  std::string d;
  for (size_t i = 0; i < p.x.size(); ++i)
    if (std::isfinite(p.mean[i])) d += 'M' + point(x, y, p.x[i], p.mean[i]) + "h0";
  return d;
}

std::string band_path(const Points& p, const Axis& x, const Axis& y) {
  std::string d, back;
  for (size_t i = 0; i <= p.x.size(); ++i) {
    if (i < p.x.size() && std::isfinite(p.mean[i])) {
      d += (back.empty() ? 'M' : 'L') + point(x, y, p.x[i], p.hi[i]);
      back = 'L' + point(x, y, p.x[i], p.lo[i]) + back;
    } else if (!back.empty()) {
      d += back + 'Z';
      back.clear();
    }
  }
  return d;
}

/// Four significant digits: what hovering shows.
std::string json_numbers(const std::vector<double>& values) {
  std::string out = "[";
  for (const double v : values)
    out += (out.size() > 1 ? "," : "") + (std::isfinite(v) ? fmt::format("{:.4g}", v) : "null");
  return out + ']';
}

std::string json_steps(const std::vector<double>& values) {
  std::string out = "[";
  for (const double v : values) out += (out.size() > 1 ? "," : "") + fmt::format("{:.0f}", v);
  return out + ']';
}

/// What the script needs to name the values under the pointer. Curves over the same steps share them.
std::string hover_json(const Chart& chart, const std::vector<Points>& points) {
  std::string out = fmt::format("{{\"last\":{:.0f},\"curves\":[", chart.last_step);
  for (size_t i = 0; i < points.size(); ++i) {
    if (i > 0) out += ',';
    out += "{\"name\":";
    append_json(out, chart.curves[i].name);
    if (i == 0 || points[i].x != points[i - 1].x) out += ",\"x\":" + json_steps(points[i].x);
    out += ",\"y\":" + json_numbers(points[i].mean) + '}';
  }
  return out + "]}";
}

std::string svg(const Chart& chart, const std::vector<Points>& points, const Axis& x, const Axis& y) {
  std::string grid;
  for (const double t : y.ticks) grid += fmt::format("M0 {}h1000", coordinate(1000 - 1000 * y.at(t)));
  std::string out = fmt::format(
      "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} over steps\">"
      "<path class=\"grid\" d=\"{}\"/>",
      html_escape(chart.title), grid);
  for (size_t i = 0; i < points.size(); ++i) {
    const std::string& style = chart.curves[i].style;
    if (points[i].has_band) out += fmt::format("<path class=\"band {}\" d=\"{}\"/>", style, band_path(points[i], x, y));
    out += fmt::format("<path class=\"line {}\" d=\"{}\"/>", style, line_path(points[i], x, y));
    if (chart.curves[i].has_dots)
      out += fmt::format("<path class=\"dots {}\" d=\"{}\"/>", style, dots_path(points[i], x, y));
  }
  return out + "</svg>";
}

std::string labels(const Axis& x, const Axis& y) {
  std::string out;
  for (const double t : y.ticks)
    out += fmt::format("<i class=\"y\" style=\"top:{:.2f}%\">{}</i>", 100 - 100 * y.at(t), tick_label(t));
  for (const double t : x.ticks)
    out += fmt::format("<i class=\"x\" style=\"left:{:.2f}%\">{}{}</i>", 100 * x.at(t), t == 0 ? "step " : "",
                       tick_label(t));
  return out;
}

std::string legend(const Chart& chart) {
  if (chart.curves.size() < 2) return "";
  std::string out = "<span class=\"legend\">";
  for (const Curve& c : chart.curves)
    out += fmt::format("<span class=\"key {}\">{}</span>", c.style, html_escape(c.name));
  return out + "</span>";
}

bool has_value(const Curve& c) {
  return std::ranges::any_of(c.y, [](double v) { return std::isfinite(v); });
}

}  // namespace

std::vector<double> round_ticks(double lo, double hi, int count) {
  if (!(lo < hi)) return {};
  const double rough = (hi - lo) / count, decade = std::pow(10, std::floor(std::log10(rough)));
  double step = decade * 10;
  for (const double m : {5.0, 2.0, 1.0})
    if (decade * m >= rough * (1 - 1e-9)) step = decade * m;
  std::vector<double> ticks;
  // Multiples by an index, so that errors do not add up and zero is exact (+ 0.0: not -0).
  for (double i = std::ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; ++i) ticks.push_back(i * step + 0.0);
  return ticks;
}

std::string tick_label(double value) {
  if (std::fabs(value) >= 1e9) return fmt::format("{:.4g}G", value / 1e9);
  if (std::fabs(value) >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (std::fabs(value) >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
  if (std::fabs(value) < 1e-9) return "0";  // what rounding leaves of zero
  const std::string text = fmt::format("{:.4g}", value);
  const size_t zero = text.find("e-0");
  return zero == std::string::npos ? text : text.substr(0, zero + 2) + text.substr(zero + 3);
}

std::string chart_html(const Chart& chart) {
  Chart shown = chart;
  std::erase_if(shown.curves, [](const Curve& c) { return !has_value(c); });
  std::vector<Points> points;
  for (const Curve& c : shown.curves) points.push_back(reduce(c));
  Axis y;
  if (!fit_axis(points, chart.scale, chart.is_wide ? 6 : 4, y)) return "";
  const double last = std::max(chart.last_step, 1.0);
  Axis x{.lo = 0, .hi = last, .ticks = round_ticks(0, last, 5)};
  std::erase_if(x.ticks, [](double t) { return t != std::round(t); });
  return fmt::format(
      "<figure{}><figcaption><b>{}</b> <span class=\"unit\">{}</span>{}</figcaption><div class=\"plot\">"
      "<div class=\"area\" data-chart=\"{}\">{}{}</div></div></figure>\n",
      chart.is_wide ? " class=\"wide\"" : "", html_escape(chart.title), html_escape(chart.unit), legend(shown),
      html_escape(hover_json(shown, points)), svg(shown, points, x, y), labels(x, y));
}

}  // namespace sluice
