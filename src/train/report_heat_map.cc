// The map of expert load: one row per expert (or several), one column per stretch of steps. Runs of equal colour are
// horizontal strokes, eight strengths of one colour for less than the fair share of tokens and of another for more.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "formats/json_lines.h"
#include "train/report_html.h"

namespace sluice {
namespace {

constexpr size_t kMaxRows = 168;
constexpr int kLevels = 8;     // of each colour; the strongest is 4 times the fair share or a quarter of it
constexpr double kMaxLog = 4;  // hovering tells up to 16 times
constexpr size_t kMaxLabels = 24;
constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

struct Grid {
  size_t layers = 0, rows_per_layer = 1, experts_per_row = 1;
  size_t columns = 0;
  std::vector<double> cells;  // log2(load / fair share), row by row
  size_t rows() const { return layers * rows_per_layer; }
};

/// Of the experts [begin, end) the one that is farthest from its fair share.
double cell(const std::vector<double>& load, size_t begin, size_t end, double fair) {
  double out = 0;
  for (size_t e = begin; e < std::min(end, load.size()); ++e) {
    const double v = std::clamp(std::log2(load[e] / fair), -kMaxLog, kMaxLog);
    if (std::fabs(v) > std::fabs(out)) out = v;
  }
  return out;
}

Grid make_grid(const std::vector<LoadHistory::Column>& columns) {
  Grid g;
  size_t experts = 1;
  for (const auto& layer : columns[0].load) experts = std::max(experts, layer.size());
  g.layers = columns[0].load.size();
  g.experts_per_row = (experts * g.layers + kMaxRows - 1) / kMaxRows;
  g.experts_per_row = std::clamp<size_t>(g.experts_per_row, 1, experts);
  g.rows_per_layer = (experts + g.experts_per_row - 1) / g.experts_per_row;
  g.columns = columns.size();
  for (size_t row = 0; row < g.rows(); ++row)
    for (const auto& column : columns) {
      const std::vector<double>& load = column.load[row / g.rows_per_layer];
      double total = 0;
      for (const double n : load) total += n;
      const size_t begin = row % g.rows_per_layer * g.experts_per_row;
      g.cells.push_back(
          total > 0 ? cell(load, begin, begin + g.experts_per_row, total / static_cast<double>(load.size())) : 0);
    }
  return g;
}

int level(double v) { return std::clamp(static_cast<int>(std::lround(v * kLevels / 2)), -kLevels, kLevels); }

/// One path per level; the fair share is the background.
std::string paths(const Grid& g) {
  std::array<std::string, 2 * kLevels + 1> d;
  for (size_t row = 0; row < g.rows(); ++row)
    for (size_t begin = 0, end; begin < g.columns; begin = end) {
      const auto level_at = [&](size_t c) { return level(g.cells[row * g.columns + c]); };
      for (end = begin + 1; end < g.columns && level_at(end) == level_at(begin);) ++end;
      // The viewBox starts half a row up, so that the middles of rows are whole numbers.
      d[static_cast<size_t>(level_at(begin) + kLevels)] += fmt::format("M{} {}h{}", begin, row, end - begin);
    }
  std::string out;
  for (int l = -kLevels; l <= kLevels; ++l)
    if (const std::string& path = d[static_cast<size_t>(l + kLevels)]; l != 0 && !path.empty())
      out += fmt::format("<path class=\"{}\" stroke-opacity=\"{:.3g}\" d=\"{}\"/>", l < 0 ? "cold" : "hot",
                         std::abs(l) / static_cast<double>(kLevels), path);
  std::string borders;
  for (size_t layer = 1; layer < g.layers; ++layer)
    borders += fmt::format("M0 {}.5h{}", layer * g.rows_per_layer - 1, g.columns);
  return out + fmt::format("<path class=\"border\" d=\"{}\"/>", borders);
}

/// Labels that are numbers become "layer 3".
std::vector<std::string> layer_names(size_t count, const std::vector<std::string>& given) {
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    const std::string name = i < given.size() ? given[i] : fmt::format("#{}", i + 1);
    const bool is_number = !name.empty() && name[0] >= '0' && name[0] <= '9';
    names.push_back(is_number ? "layer " + name : name);
  }
  return names;
}

std::string hover_json(const Grid& g, const std::vector<LoadHistory::Column>& columns,
                       const std::vector<std::string>& names) {
  std::vector<std::array<int64_t, 2>> steps;
  for (const auto& c : columns) steps.push_back({c.first_step, c.last_step});
  std::string values;
  for (const double v : g.cells)
    values += kDigits[static_cast<size_t>(std::lround((v + kMaxLog) / (2 * kMaxLog) * 62))];
  JsonObject o;
  o.add("layers", names).add("rows", g.rows_per_layer).add("experts", g.experts_per_row).add("steps", steps);
  return o.add("values", values).str();
}

std::string labels(const Grid& g, const std::vector<LoadHistory::Column>& columns,
                   const std::vector<std::string>& names) {
  std::string out;
  const size_t stride = (g.layers + kMaxLabels - 1) / kMaxLabels;
  for (size_t i = 0; i < g.layers; i += stride)
    out += fmt::format("<i class=\"y\" style=\"top:{:.2f}%\">{}</i>",
                       100 * (static_cast<double>(i) + 0.5) / static_cast<double>(g.layers), html_escape(names[i]));
  const size_t count = std::min<size_t>(g.columns, 5);
  for (size_t i = 0; i < count; ++i) {
    const size_t c = count == 1 ? 0 : i * (g.columns - 1) / (count - 1);
    out += fmt::format("<i class=\"x\" style=\"left:{:.2f}%\">{}{}</i>",
                       100 * (static_cast<double>(c) + 0.5) / static_cast<double>(g.columns), i == 0 ? "step " : "",
                       tick_label(static_cast<double>(columns[c].last_step)));
  }
  return out;
}

}  // namespace

std::string heat_map_html(const LoadHistory& load, const std::vector<std::string>& layers) {
  const auto& columns = load.columns();
  if (columns.empty() || columns[0].load.empty()) return "";
  const Grid g = make_grid(columns);
  const std::vector<std::string> names = layer_names(g.layers, layers);
  const std::string rows = g.experts_per_row == 1
                               ? "one row per expert"
                               : fmt::format("one row per {} experts (the most uneven of them)", g.experts_per_row);
  return fmt::format(
      "<figure class=\"wide\"><figcaption><b>Expert load</b> <span class=\"unit\">by layer and step, relative to the "
      "fair share; {}</span><span class=\"legend scale\">&frac14;&times;<span class=\"ramp\"></span>4&times;</span>"
      "</figcaption><div class=\"plot heat\" style=\"height:{}px\"><div class=\"area\" data-heat=\"{}\">"
      "<svg viewBox=\"0 -0.5 {} {}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Expert load by layer and "
      "step\">{}</svg>{}</div></div></figure>\n",
      rows, std::clamp<size_t>(g.rows() * 9, 160, 640) + 30, html_escape(hover_json(g, columns, names)), g.columns,
      g.rows(), paths(g), labels(g, columns, names));
}

}  // namespace sluice
