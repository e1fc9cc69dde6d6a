// Steps of a real model on two ranks take as long as the simulation says from the times of their own phases.
#include <algorithm>
#include <chrono>
#include <map>
#include <tuple>

#include "../parallel/world.h"
#include "base/rng.h"
#include "model/checkpoint.h"
#include "parallel/simulate.h"
#include "train/config.h"
#include "train/pipeline_run.h"

namespace sluice::test {
namespace {

[[maybe_unused]] const auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

constexpr int64_t kTokens = 512, kMicros = 8, kVocabulary = 512;

Batch random_batch() {
  Batch b;
  b.rows = kMicros;
  b.cols = kTokens + 1;
  Rng rng(1);
  for (int64_t i = 0; i < b.rows * b.cols; ++i) b.ids.push_back(static_cast<int32_t>(rng.below(kVocabulary)));
  b.first.assign(b.ids.size(), 0);
  b.loss.assign(b.ids.size(), 1);
  return b;
}

/// Both ranks' spans, on both.
Timeline all_spans(const std::vector<Span>& own) {
  const int other = 1 - world().rank();
  std::vector<int64_t> sizes(2);
  sizes[static_cast<size_t>(world().rank())] = static_cast<int64_t>(own.size());
  world().all_reduce(Tensor(sizes.data(), DType::i64, {2})).wait();
  std::vector<Span> theirs(static_cast<size_t>(sizes[static_cast<size_t>(other)]));
  const Transfer arrives = world().receive(std::as_writable_bytes(std::span(theirs)), other);
  world().send(std::as_bytes(std::span(own)), other).wait();
  arrives.wait();
  return world().rank() == 0 ? Timeline{{own, theirs}} : Timeline{{theirs, own}};
}

/// Seconds from one rank to the other.
double message_seconds(size_t bytes) {
  std::vector<std::byte> data(bytes);
  const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()); };
  const int other = 1 - world().rank();
  constexpr int kTrips = 21;
  std::vector<double> seconds;
  for (int i = 0; i < kTrips; ++i) {
    const auto begin = now();
    for (const int sender : {0, 1})
      (sender == world().rank() ? world().send(data, other) : world().receive(data, other)).wait();
    seconds.push_back((now() - begin).count() / 2);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kTrips / 2, seconds.end());
  return seconds[kTrips / 2];
}

/// What the phases of a step took, each as the mean over its micro-batches.
Costs costs_of(const Timeline& timeline, double message) {
  using Key = std::tuple<int, Step, int, int>;  // rank, step, chunk, phase
  struct Mean {
    double seconds = 0;
    int count = 0;
  };
  std::map<Key, Mean> means;
  for (int rank = 0; rank < 2; ++rank)
    for (const Span& s : timeline.ranks[static_cast<size_t>(rank)]) {
      Mean& m = means[{rank, s.action.step, s.action.chunk, s.phase}];
      m.seconds += s.end - s.begin;
      ++m.count;
    }
  const auto mean = [means](const Key& key) {
    const Mean& m = means.at(key);
    return m.seconds / m.count;
  };
  Costs costs{[mean](int rank, const Action& a) { return mean({rank, a.step, a.chunk, -1}); }, message, message};
  costs.phases = [mean, means](int rank, const StagePass& pass) {
    std::vector<PhaseSeconds> phases;
    for (int phase = 0; means.contains({rank, pass.step, pass.chunk, phase}); ++phase)
      phases.push_back({mean({rank, pass.step, pass.chunk, phase})});
    return phases;
  };
  return costs;
}

TEST(ModelTime, IsThatOfTheSimulation) {
  if (world().size() != 2) GTEST_SKIP() << "expected two ranks";
  Stream s(1);
  HfConfig c = builtin_model("tiny", kVocabulary, kTokens);
  c.num_nextn_predict_layers = 1;
  Model model = allocate_model(c, 1, Precision::f32), grad = allocate_f32_like(model);
  fill_model(s, model, random_rows(c, 1));
  const Batch batch = random_batch();
  PassOptions options;
  options.loss_scale = 1.0f / (kMicros * kTokens);
  options.mtp_weight = 0.3f;
  const double message = message_seconds(static_cast<size_t>(kTokens * c.hidden_size) * sizeof(float));
  for (const Schedule schedule : all_schedules()) {
    const Pipeline pipeline(schedule, 2, kMicros);
    PipelineRun run(s, pipeline, world(), model, grad.weights);
    std::vector<double> ratios;
    Timeline timeline;
    for (int i = 0; i < 6; ++i) {
      agree(world(), 0);
      int64_t at_the_same_time = 0;
      world().all_reduce(Tensor(&at_the_same_time, DType::i64, {1})).wait();
      run.step(batch, 0, 1, options, {});
      timeline = all_spans(run.spans());
      const double simulated = total_seconds(simulate(pipeline, all_actions(pipeline), costs_of(timeline, message)));
      if (i > 0) ratios.push_back(total_seconds(timeline) / simulated);  // the first step touches memory
    }
    std::sort(ratios.begin(), ratios.end());
    if (world().rank() == 0)
      fmt::print("{:<9} {} micro-batches, a step takes {:.0f} ms, {:+.1f}% ({:+.1f} to {:+.1f}%) of the simulation\n",
                 schedule_name(schedule), kMicros, 1e3 * total_seconds(timeline), 100 * (ratios[2] - 1),
                 100 * (ratios[0] - 1), 100 * (ratios[4] - 1));
    EXPECT_GT(ratios[2], 0.85) << schedule_name(schedule);
    EXPECT_LT(ratios[2], 1.15) << schedule_name(schedule);
  }
}

}  // namespace
}  // namespace sluice::test
