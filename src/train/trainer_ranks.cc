// What a run on several ranks does otherwise than one alone (train/replicas.h, train/pipeline_run.h).
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "model/checkpoint.h"
#include "train/batch.h"
#include "train/trainer.h"

namespace sluice {
namespace {

/// What a rank has that is not a number, the nearest to where it began last: gradients and losses also show what other
/// ranks' experts and stages gave.
enum class Spoiled : int64_t { nothing, gradient, loss, copy, weight };
constexpr int64_t kKinds = 8;  // a rank's finding is a kind + kKinds x a place in parameters()

constexpr int64_t TrafficMetrics::*kTrafficKinds[] = {&TrafficMetrics::experts, &TrafficMetrics::stages,
                                                      &TrafficMetrics::gradients, &TrafficMetrics::weights,
                                                      &TrafficMetrics::rest};

/// The first of `mask` that holds what is not a number.
std::optional<size_t> first_spoiled(ModelWeights& tree, const ParamMask& mask) {
  const std::vector<Param> list = parameters(tree);
  std::vector<float> row;
  for (size_t i = 0; i < list.size(); ++i) {
    const Matrix& m = *list[i].matrix;
    constexpr int64_t kRows = 128;
    for (int64_t begin = 0; is_in(mask, i) && begin < m.rows; begin += kRows) {
      const int64_t rows = std::min(kRows, m.rows - begin);
      row.resize(static_cast<size_t>(rows * m.cols));
      stored_rows()(list[i], begin, rows, row.data());
      if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); })) return i;
    }
  }
  return {};
}

}  // namespace

void Trainer::check_ranks() const {
  const int ranks = world_.size();
  for (const auto& [key, wanted] : {std::pair("expert_parallel", config_.expert_parallel),
                                    std::pair("pipeline_parallel", config_.pipeline_parallel)})
    if (ranks == 1 && wanted > 1)
      fail("{}: expected {} ranks or a multiple, started by mpirun, found one", key, wanted);
  if (ranks > 1 && gpu_) fail("device: several ranks train on CPUs only, found {}", config_.device);
  const int64_t parts = std::max<int64_t>(ranks / config_.pipeline_parallel, 1);
  if (config_.batch_size % parts != 0)
    fail("batch_size: expected a multiple of the {} ranks that share it, found {}", parts, config_.batch_size);
  if (ranks > 1 && config_.batch_start > 0)
    fail("batch_start: expected 0 with several ranks, found {}", config_.batch_start);
}

void Trainer::check_same_on_all_ranks(const fs::path& checkpoint) {
  const int64_t name = static_cast<int64_t>(std::hash<std::string>()(checkpoint.filename().string()));
  if (agree(world_, name) != name)
    fail("{}: rank {} finds another newest good checkpoint there than the first rank, {}", config_.out, world_.rank(),
         checkpoint.filename().string());
}

void Trainer::make_pipeline() {
  const int64_t rows = config_.batch_size / replicas_->data_parts();
  if (rows % config_.micro_batch != 0)
    fail("micro_batch: expected a divisor of the {} sequences that a pipeline gets in a step, found {}", rows,
         config_.micro_batch);
  const Pipeline pipeline(replicas_->layout().schedule, replicas_->layout().pipeline,
                          static_cast<int>(rows / config_.micro_batch));
  pipeline_ = std::make_unique<PipelineRun>(compute(), pipeline, replicas_->pipeline(), model_, optimizer_->grad());
}

StepLosses Trainer::whole_batch(const Batch& batch, const StepSchedule& schedule) {
  const int64_t rows = batch.rows / replicas_->data_parts(), begin = rows * replicas_->data_part();
  StepLosses losses = pipeline_ ? pipeline_->step(batch, begin, config_.micro_batch,
                                                  pass_options(config_, schedule, count_targets(batch)), counts_LE_)
                                : forward_backward(batch, begin, begin + rows, schedule);
  own_losses_are_finite_ = std::isfinite(losses.main) && std::isfinite(losses.mtp);
  replicas_->sum(Tensor(&losses.main, DType::f64, {3}));
  return losses;
}

double Trainer::grad_norm() {
  if (world_.size() > 1) own_gradient_is_finite_ = optimizer_->has_finite_gradient(compute());
  replicas_->reduce_gradients(optimizer_->grad());
  double squares = optimizer_->grad_squares(compute());
  replicas_->sum(Tensor(&squares, DType::f64, {1}));
  return std::sqrt(squares);
}

bool Trainer::is_any_weight_spoiled() {
  if (world_.size() == 1) return false;
  int64_t spoiled = first_spoiled(optimizer_->master(), optimizer_->owned()).has_value();
  replicas_->sum(Tensor(&spoiled, DType::i64, {1}));
  return spoiled > 0;
}

std::string Trainer::who_is_not_a_number() {
  if (world_.size() == 1) return "";
  std::vector<int64_t> found(static_cast<size_t>(world_.size()));
  const auto report = [&](Spoiled kind, size_t place) {
    found[static_cast<size_t>(world_.rank())] = static_cast<int64_t>(kind) + kKinds * static_cast<int64_t>(place);
  };
  if (!own_gradient_is_finite_) report(Spoiled::gradient, 0);
  if (!own_losses_are_finite_) report(Spoiled::loss, 0);
  if (const auto place = first_spoiled(model_.weights, optimizer_->held())) report(Spoiled::copy, *place);
  if (const auto place = first_spoiled(optimizer_->master(), optimizer_->owned())) report(Spoiled::weight, *place);
  replicas_->sum(Tensor(found.data(), DType::i64, {world_.size()}));

  int64_t kind = 0;
  for (const int64_t f : found) kind = std::max(kind, f % kKinds);
  std::vector<std::string> ranks;
  const std::vector<Param> list = parameters(model_.weights);
  for (size_t r = 0; r < found.size(); ++r) {
    if (found[r] % kKinds != kind || kind == 0) continue;
    const std::string& name = list[static_cast<size_t>(found[r] / kKinds)].name;
    const auto what = static_cast<Spoiled>(kind);
    ranks.push_back(fmt::format("rank {} ({})", r,
                                what == Spoiled::weight ? name
                                : what == Spoiled::copy ? "its copy of " + name
                                : what == Spoiled::loss ? "its loss"
                                                        : "its gradient"));
  }
  return ranks.empty() ? "" : fmt::format("; not a number on {}", fmt::join(ranks, ", "));
}

void Trainer::add_traffic(const TrafficMetrics& before, int64_t tokens) {
  const TrafficMetrics now = replicas_->traffic();
  for (const auto kind : kTrafficKinds) traffic_.*kind += now.*kind - before.*kind;
  ++traffic_.steps;
  traffic_.tokens += tokens;
}

void Trainer::record_traffic() {
  if (world_.size() == 1 || traffic_.steps == 0) return;
  TrafficMetrics all = traffic_;
  all.step = progress_.step;
  for (const auto kind : kTrafficKinds) replicas_->sum(Tensor(&(all.*kind), DType::i64, {1}));
  if (is_first()) metrics_->add(all);
}

}  // namespace sluice
