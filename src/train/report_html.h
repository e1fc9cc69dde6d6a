// The pieces of report.html: text, charts, the map of expert load, style.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/report_data.h"

namespace sluice {

/// `text` for the body or a quoted attribute of a page; control characters but newline and tab become spaces.
std::string html_escape(std::string_view text);

/// "12,345".
std::string format_grouped(int64_t value);

/// Round values from `lo` to `hi`, at most about `count`, 1, 2 or 5 times a power of ten apart. Empty unless lo < hi.
std::vector<double> round_ticks(double lo, double hi, int count);

/// The label of a tick: "0.0003", "12k".
std::string tick_label(double value);

/// One line of a chart.
struct Curve {
  std::string name;
  std::string style;             // CSS class: main, mtp, eval0 to eval3
  std::span<const double> x, y;  // x grows; y may be NaN
  bool has_dots = false;         // marks the points (few of them)
};

enum class AxisScale { fit, from_zero, log };

/// Curves over steps.
struct Chart {
  std::string title, unit;
  std::vector<Curve> curves;
  AxisScale scale = AxisScale::fit;
  bool is_wide = false;
  double last_step = 1;  // the x axis runs from 0 to here
};

/// A <figure>; "" when no curve has a finite value. Curves of more than some 300 points are drawn as the mean of
/// neighbours in a band from their least to their greatest value.
std::string chart_html(const Chart& chart);

/// A <figure> with the load of each expert relative to its fair share, by layer and step; "" without columns. `layers`:
/// labels, may be fewer than the layers.
std::string heat_map_html(const LoadHistory& load, const std::vector<std::string>& layers);

/// The <style> and <script> bodies of the page.
std::string_view report_css();
std::string_view report_script();

}  // namespace sluice
