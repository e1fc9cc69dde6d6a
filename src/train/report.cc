#include "train/report.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "train/progress.h"
#include "train/report_html.h"

namespace sluice {
namespace {

constexpr size_t kMaxSamples = 6;
constexpr size_t kMaxSampleBytes = 3000, kMaxConfigBytes = 20000;
constexpr size_t kMaxEvals = 4;  // held-out sets with a colour of their own

/// At most `limit` bytes, not cut within a character.
std::string_view cut(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return text.substr(0, limit);
}

std::string escaped_cut(std::string_view text, size_t limit) {
  return html_escape(cut(text, limit)) + (text.size() > limit ? " &hellip;" : "");
}

/// The steps that count as the end of the run: a twentieth, at least one and at most 50.
size_t tail_steps(const RunData& run) { return std::clamp<size_t>(run.step.size() / 20, 1, 50); }

double tail_mean(const RunData& run, const std::vector<double>& values) {
  double sum = 0;
  for (size_t i = values.size() - tail_steps(run); i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(tail_steps(run));
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

std::string tile(std::string_view label, std::string_view value, std::string_view unit, std::string_view detail) {
  return fmt::format("<div class=\"tile\"><span>{}</span><b>{}<small>{}</small></b><span>{}</span></div>\n",
                     html_escape(label), html_escape(value), html_escape(unit), html_escape(detail));
}

std::string eval_tile(const EvalHistory& e) {
  const size_t best = static_cast<size_t>(std::ranges::min_element(e.bits_per_byte) - e.bits_per_byte.begin());
  const std::string last = fmt::format("{:.3f}", e.bits_per_byte.back());
  const std::string detail = best + 1 == e.step.size() ? fmt::format("loss {:.3f}, the best so far", e.loss.back())
                                                       : fmt::format("best {:.3f} at step {}", e.bits_per_byte[best],
                                                                     format_grouped(std::llround(e.step[best])));
  return tile("Held out: " + e.name, last, " bits/byte", detail);
}

std::string tiles(const RunData& run) {
  const size_t tail = tail_steps(run);
  const std::string tail_text = tail == 1 ? "last step" : fmt::format("mean of the last {} steps", tail);
  std::string out = "<section class=\"tiles\">\n";
  out += tile("Training loss", fmt::format("{:.3f}", tail_mean(run, run.loss)), " nats/token", tail_text);
  for (size_t i = 0; i < std::min(run.evals.size(), kMaxEvals); ++i) out += eval_tile(run.evals[i]);
  if (run.last.loss_mtp) {
    const bool has_acceptance = !run.evals.empty() && std::isfinite(run.evals[0].mtp_acceptance.back());
    const std::string loss = fmt::format("{:.3f}", tail_mean(run, run.loss_mtp));
    out += has_acceptance ? tile("MTP drafts accepted", fmt::format("{:.0f}", 100 * run.evals[0].mtp_acceptance.back()),
                                 " %", "MTP loss " + loss)
                          : tile("MTP loss", loss, " nats/token", tail_text);
  }
  if (run.last.max_vio) out += tile("MaxVio", fmt::format("{:.3f}", tail_mean(run, run.max_vio)), "", tail_text);
  if (run.info.parameters > 0)
    out += tile("Parameters", format_si(static_cast<double>(run.info.parameters)), "",
                format_si(static_cast<double>(run.info.active_parameters)) + " active per token");
  const double tokens = static_cast<double>(run.last.tokens);
  out += tile("Tokens", format_si(tokens), "",
              fmt::format("{} per step", format_si(tokens / static_cast<double>(run.last.step))));
  out += tile("Time", format_duration(run.last.seconds), "", "of training");
  out += tile("Speed", format_si(mean(run.tokens_per_second)), " tokens/s",
              format_si(mean(run.flops_per_second), " ") + "FLOP/s");
  return out + "</section>\n";
}

/// A curve for each of the first held-out sets, named "<name> <suffix>".
void add_evals(Chart& chart, const RunData& run, std::vector<double> EvalHistory::*values) {
  for (size_t i = 0; i < std::min(run.evals.size(), kMaxEvals); ++i)
    chart.curves.push_back({.name = run.evals[i].name,
                            .style = fmt::format("eval{}", i),
                            .x = run.evals[i].step,
                            .y = run.evals[i].*values,
                            .has_dots = true});
}

std::string charts(const RunData& run) {
  const double last = run.step.back();
  const auto train = [&](const char* title, const char* unit, const std::vector<double>& y, AxisScale scale) {
    return Chart{
        .title = title, .unit = unit, .curves = {{"training", "main", run.step, y}}, .scale = scale, .last_step = last};
  };
  const auto evals = [&](const char* title, const char* unit, std::vector<double> EvalHistory::*values,
                         AxisScale scale) {
    Chart chart{.title = title, .unit = unit, .curves = {}, .scale = scale, .last_step = last};
    add_evals(chart, run, values);
    return chart;
  };
  Chart loss = train("Loss", "nats per token", run.loss, AxisScale::fit);
  loss.is_wide = true;
  loss.curves.push_back({"training, MTP", "mtp", run.step, run.loss_mtp});
  add_evals(loss, run, &EvalHistory::loss);
  Chart vio = train("MaxVio", "max / mean load − 1", run.max_vio, AxisScale::from_zero);
  add_evals(vio, run, &EvalHistory::max_vio);
  const Chart all[] = {loss,
                       evals("Held-out text", "bits per byte", &EvalHistory::bits_per_byte, AxisScale::fit),
                       evals("MTP drafts accepted", "share", &EvalHistory::mtp_acceptance, AxisScale::from_zero),
                       vio,
                       train("Learning rate", "", run.lr, AxisScale::from_zero),
                       train("Gradient norm", "before clipping", run.grad_norm, AxisScale::log),
                       train("Speed", "tokens per second", run.tokens_per_second, AxisScale::from_zero)};
  std::string out = "<section class=\"charts\">\n";
  for (const Chart& chart : all) out += chart_html(chart);
  return out + heat_map_html(run.load, run.info.expert_layers) + "</section>\n";
}

/// The last sample first, and others evenly over the run.
std::string samples(const RunData& run) {
  if (run.samples.empty()) return "";
  std::string out = "<section><h2>Samples of text</h2>\n";
  const size_t n = run.samples.size(), shown = std::min(n, kMaxSamples);
  for (size_t i = 0; i < shown; ++i) {
    const TextSample& s = run.samples[shown == 1 ? n - 1 : (shown - 1 - i) * (n - 1) / (shown - 1)];
    out += fmt::format("<article><span>step {}</span><p><b>{}</b>{}</p></article>\n", format_grouped(s.step),
                       escaped_cut(s.prompt, kMaxSampleBytes), escaped_cut(s.text, kMaxSampleBytes));
  }
  return out + "</section>\n";
}

std::string header(const RunData& run, const std::string& name) {
  std::string text = fmt::format("{} of {} steps", format_grouped(run.last.step),
                                 format_grouped(std::max(run.info.total_steps, run.last.step)));
  if (run.resumptions > 0)
    text += fmt::format(", resumed {}", run.resumptions == 1 ? "once" : fmt::format("{} times", run.resumptions));
  return fmt::format("<header><h1>{}</h1><p>{}</p></header>\n", html_escape(name), text);
}

std::string configuration(const RunData& run) {
  if (run.info.config.empty()) return "";
  return fmt::format("<details><summary>Configuration</summary><pre>{}</pre></details>\n",
                     escaped_cut(run.info.config, kMaxConfigBytes));
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out;
}

std::string format_grouped(int64_t value) {
  std::string out = fmt::format("{}", value);
  for (size_t i = out.size(); i > 3 + (value < 0); i -= 3) out.insert(i - 3, ",");
  return out;
}

void write_report(const fs::path& folder) {
  const RunData run = read_run_data(folder);
  const fs::path absolute = fs::absolute(folder).lexically_normal();
  const fs::path name = absolute.has_filename() ? absolute.filename() : absolute.parent_path().filename();
  write_file(folder / "report.html",
             fmt::format("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                         "<title>{}: training report</title>\n<style>\n{}</style>\n</head>\n<body>\n",
                         html_escape(name.string()), report_css()) +
                 header(run, name.string()) + tiles(run) + charts(run) + samples(run) + configuration(run) +
                 fmt::format("<footer>Written by Sluice {}</footer>\n<script>\n{}</script>\n</body>\n</html>\n",
                             SLUICE_VERSION, report_script()));
}

}  // namespace sluice
