#include "train/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

constexpr const char* kFileName = "metrics.jsonl";

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// Whether a run that resumes after `steps` steps keeps `line`. A line that does not parse goes: only the tail of the
/// file is ever asked, where it was torn by a crash.
bool is_kept(std::string_view line, int64_t steps, const std::string& where) {
  try {
    const MetricsLine m = parse_metrics_line(line, where);
    // The info that was written when the run resumed here before is about to be written again.
    return std::holds_alternative<RunInfo>(m) ? metrics_line_step(m) < steps : metrics_line_step(m) <= steps;
  } catch (const Error&) {
    return false;
  }
}

/// Length of the part of `text` to keep. Steps only grow along the file, so the search goes back from its end.
size_t kept_length(std::string_view text, int64_t steps, const std::string& where) {
  if (steps == 0) return 0;
  size_t end = text.rfind('\n') + 1;  // npos + 1 == 0
  while (end > 0) {
    const size_t newline = end >= 2 ? text.rfind('\n', end - 2) : std::string_view::npos;
    const size_t begin = newline + 1;
    if (is_kept(text.substr(begin, end - 1 - begin), steps, where)) break;
    end = begin;
  }
  return end;
}

void drop_later_steps(const fs::path& path, int64_t steps) {
  if (!fs::exists(path)) return;
  const MappedFile file(path);
  const std::string_view text = text_of(file);
  const size_t length = kept_length(text, steps, path.string());
  if (length < text.size()) write_file(path, text.substr(0, length));
}

fs::path created(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot create: {}", folder.string(), error.message());
  return folder;
}

using Scalars = std::vector<std::pair<std::string, float>>;

void add_scalar(Scalars& scalars, std::string tag, const std::optional<double>& value) {
  if (value) scalars.emplace_back(std::move(tag), static_cast<float>(*value));
}

}  // namespace

double max_vio(const std::vector<std::vector<int64_t>>& load) {
  double sum = 0;
  int layers = 0;
  for (const auto& layer : load) {
    int64_t most = 0, total = 0;
    for (const int64_t n : layer) most = std::max(most, n), total += n;
    if (total == 0) continue;
    sum += static_cast<double>(most) * static_cast<double>(layer.size()) / static_cast<double>(total) - 1;
    ++layers;
  }
  return layers ? sum / layers : 0;
}

void read_metrics(const fs::path& folder, const std::function<void(const MetricsLine&)>& fn) {
  const MappedFile file(folder / kFileName);
  const std::string_view text = text_of(file);
  int64_t number = 0;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string_view::npos; begin = end + 1)
    fn(parse_metrics_line(text.substr(begin, end - begin), fmt::format("{}:{}", file.path().string(), ++number)));
}

MetricsWriter::MetricsWriter(const fs::path& folder, const RunInfo& info)
    : path_(created(folder) / kFileName), tensorboard_(folder / "tensorboard", info.step + 1) {
  drop_later_steps(path_, info.step);
  file_.reset(std::fopen(path_.c_str(), "abe"));
  if (!file_) fail("{}: cannot open: {}", path_.string(), std::strerror(errno));
  append(info);
}

void MetricsWriter::append(const MetricsLine& line) {
  const std::string text = format_metrics_line(line) + '\n';
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
    fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
}

void MetricsWriter::add(const StepMetrics& m) {
  append(m);
  Scalars s;
  add_scalar(s, "train/loss", m.loss_main);
  add_scalar(s, "train/loss_mtp", m.loss_mtp);
  add_scalar(s, "train/balance_loss", m.balance_loss);
  add_scalar(s, "train/max_vio", m.max_vio);
  add_scalar(s, "train/grad_norm", m.grad_norm);
  add_scalar(s, "schedule/lr", m.lr);
  add_scalar(s, "schedule/mtp_weight", m.mtp_weight);
  add_scalar(s, "schedule/bias_speed", m.bias_speed);
  add_scalar(s, "speed/tokens_per_second", m.tokens_per_second);
  add_scalar(s, "speed/gflops_per_second", m.flops_per_second * 1e-9);
  tensorboard_.add_scalars(m.step, s);
}

void MetricsWriter::add(const EvalMetrics& m) {
  append(m);
  Scalars s;
  add_scalar(s, fmt::format("eval/{}/loss", m.name), m.loss);
  add_scalar(s, fmt::format("eval/{}/bits_per_byte", m.name), m.bits_per_byte);
  add_scalar(s, fmt::format("eval/{}/mtp_acceptance", m.name), m.mtp_acceptance);
  add_scalar(s, fmt::format("eval/{}/max_vio", m.name), m.max_vio);
  tensorboard_.add_scalars(m.step, s);
}

void MetricsWriter::add(const TextSample& m) { append(m); }

void MetricsWriter::add(const TrafficMetrics& m) { append(m); }

void MetricsWriter::sync() {
  if (fsync(fileno(file_.get())) != 0) fail("{}: cannot sync: {}", path_.string(), std::strerror(errno));
}

}  // namespace sluice
