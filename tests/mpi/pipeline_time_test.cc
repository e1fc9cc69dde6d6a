// The executor keeps the time that the simulation says: ranks are threads whose work is to wait, messages take a while.
#include <gtest/gtest.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "base/file.h"
#include "parallel/executor.h"
#include "parallel/simulate.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

/// Messages on their way between the threads of a test.
class Post {
 public:
  explicit Post(double seconds) : delay_(std::chrono::duration_cast<Clock::duration>(Seconds(seconds))) {}

  void put(int from, int to, int tag, std::span<const std::byte> data) {
    const std::lock_guard lock(mutex_);
    messages_[{from, to, tag}] = {{data.begin(), data.end()}, Clock::now() + delay_};
    arrived_.notify_all();
  }
  /// Waits for it.
  void take(int from, int to, int tag, std::span<std::byte> out) {
    std::unique_lock lock(mutex_);
    const std::tuple key{from, to, tag};
    arrived_.wait(lock, [&] { return messages_.contains(key); });
    const Message message = messages_[key];
    messages_.erase(key);
    lock.unlock();
    std::this_thread::sleep_until(message.ready);
    ASSERT_EQ(message.data.size(), out.size());
    std::memcpy(out.data(), message.data.data(), out.size());
  }

 private:
  struct Message {
    std::vector<std::byte> data;
    Clock::time_point ready;
  };
  Clock::duration delay_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::tuple<int, int, int>, Message> messages_;
};

class DelayedRank : public Communicator {
 public:
  DelayedRank(Post& post, int rank, int size) : post_(post), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Transfer send(std::span<const std::byte> data, int to, int tag) override {
    post_.put(rank_, to, tag, data);
    return {};
  }
  Transfer receive(std::span<std::byte> data, int from, int tag) override {
    return Transfer(std::make_shared<Receive>(post_, rank_, from, tag, data));
  }
  Transfer all_to_all(const ByteRanges& in, const ByteRanges& out) override {
    const auto part = [](const ByteRanges& r, int rank) {
      const size_t at = static_cast<size_t>(rank);
      return std::span(r.data + r.offset[at], static_cast<size_t>(r.count[at]));
    };
    auto all = std::make_shared<All>();
    for (int rank = 0; rank < size_; ++rank) {
      send(part(out, rank), rank, exchanges_);
      all->receives.push_back(receive(part(in, rank), rank, exchanges_));
    }
    ++exchanges_;
    return Transfer(std::move(all));
  }
  Transfer all_reduce(const Tensor&) override { return {}; }
  Transfer reduce(const Tensor&, int) override { return {}; }
  Transfer broadcast(std::span<std::byte>, int) override { return {}; }
  std::unique_ptr<Communicator> split(int) override { return nullptr; }

 private:
  class Receive : public Transfer::State {
   public:
    Receive(Post& post, int to, int from, int tag, std::span<std::byte> out)
        : post_(post), to_(to), from_(from), tag_(tag), out_(out) {}
    void wait() override {
      if (!is_done_) post_.take(from_, to_, tag_, out_);
      is_done_ = true;
    }
    bool is_done() const override { return is_done_; }

   private:
    Post& post_;
    int to_, from_, tag_;
    std::span<std::byte> out_;
    bool is_done_ = false;
  };
  struct All : Transfer::State {
    std::vector<Transfer> receives;
    void wait() override {
      for (const Transfer& t : receives) t.wait();
    }
    bool is_done() const override { return false; }
  };
  Post& post_;
  int rank_, size_, exchanges_ = 0;
};

constexpr int kExpertRanks = 2, kLayers = 2;
constexpr double kPhase = 0.004;  // attention and experts forward, their input and their weight gradients: each

/// The phases of a chunk of MoE layers (model/block.h), every exchange of rows or counts taking as long.
std::vector<PhaseSeconds> phases_of(Step step, double exchange) {
  std::vector<PhaseSeconds> phases;
  const auto add = [&](double seconds, bool sends, bool awaits, int back = 1) {
    const int n = static_cast<int>(phases.size());
    phases.push_back({seconds, sends ? exchange : 0, awaits ? n - back : -1});
  };
  const double weights = step == Step::B ? kPhase : 0;
  if (step != Step::F) add(0, true, false);  // combine of the last layer
  for (int layer = 0; layer < kLayers; ++layer) {
    if (step == Step::F) {
      add(kPhase, true, false);  // attention, counts
      add(0, true, true);        // dispatch
      add(kPhase, true, true);   // experts
      add(0, false, true);       // combine
    } else {
      add(kPhase, true, true, layer == 0 ? 1 : 2);  // experts
      add(weights, false, false);
      add(kPhase, layer + 1 < kLayers, true, 2);  // attention, combine of the layer before
      add(weights, false, false);
    }
  }
  return phases;
}

/// Stages whose work is to wait. What flows through them is the number of stages passed and the micro-batch; what
/// their exchanges bring, that and the phase.
class WaitingWork : public StageWork {
 public:
  WaitingWork(const Pipeline& pipeline, int rank, Communicator& experts, double exchange)
      : pipeline_(pipeline), rank_(rank), experts_(experts), exchange_(exchange) {}

  int phases(const StagePass& pass) const override { return static_cast<int>(phases_of(pass.step, exchange_).size()); }
  void await(const StagePass& pass, int phase) override {
    Micro& m = micros_[{pass.chunk, pass.micro}];
    const int from = phases_of(pass.step, exchange_)[static_cast<size_t>(phase)].awaits;
    if (from < 0 || exchange_ == 0) return;
    const Exchange& e = m.exchanges.at({pass.is_forward(), from});
    e.transfer.wait();
    for (int rank = 0; rank < kExpertRanks; ++rank)
      EXPECT_EQ(e.in[static_cast<size_t>(rank)], name(pass, from)) << "from expert rank " << rank;
  }
  void compute(const StagePass& pass, int phase) override {
    Micro& m = micros_[{pass.chunk, pass.micro}];
    if (phase == 0) pass.is_forward() ? check_input(pass, m) : check_gradient(pass, m);
    const PhaseSeconds p = phases_of(pass.step, exchange_)[static_cast<size_t>(phase)];
    wait(p.computing);
    if (p.transfer > 0) send(m.exchanges[{pass.is_forward(), phase}], name(pass, phase));
    if (pass.is_forward()) m.out = {m.in[0] + 1, m.in[1]};
  }
  void backward_weight(int, int) override { wait(2 * kLayers * kPhase); }
  std::span<std::byte> input(int chunk, int micro) override { return bytes(micros_[{chunk, micro}].in); }
  std::span<const std::byte> output(int chunk, int micro) override { return bytes(micros_[{chunk, micro}].out); }
  std::span<std::byte> output_gradient(int chunk, int micro) override {
    return bytes(micros_[{chunk, micro}].gradient);
  }
  std::span<const std::byte> input_gradient(int chunk, int micro) override { return bytes(micros_[{chunk, micro}].in); }
  void release(int chunk, int micro) override { micros_.erase({chunk, micro}); }
  size_t under_way() const { return micros_.size(); }

 private:
  using Value = std::array<int, 2>;
  struct Exchange {
    std::array<Value, kExpertRanks> in{}, out{};
    Transfer transfer;
  };
  struct Micro {
    Value in{}, out{}, gradient{};
    std::map<std::pair<bool, int>, Exchange> exchanges;
  };
  template <class T>
  static std::span<std::byte> bytes(T& v) {
    return std::as_writable_bytes(std::span(v));
  }
  static void wait(double seconds) {
    if (seconds > 0) std::this_thread::sleep_for(Seconds(seconds));
  }
  Place place(const StagePass& pass) const { return {rank_, pass.chunk}; }
  Value name(const StagePass& pass, int phase) const {
    return {pipeline_.stage(place(pass)) + 100 * pass.micro, phase + 1000 * pass.is_forward()};
  }
  void check_input(const StagePass& pass, Micro& m) const {
    const bool is_direction_1 = pipeline_.schedule() == Schedule::dualpipe && pass.chunk == 1;
    if (pipeline_.is_first(place(pass))) m.in = {0, pass.micro + 1000 * is_direction_1};
    EXPECT_EQ(m.in[0], pipeline_.stage(place(pass)));
    EXPECT_EQ(m.in[1], pass.micro + 1000 * is_direction_1);
  }
  void check_gradient(const StagePass& pass, Micro& m) const {
    if (pipeline_.is_last(place(pass))) m.gradient = m.out;
    EXPECT_EQ(m.gradient, m.out) << "the gradient of this output";
  }
  void send(Exchange& e, const Value& value) const {
    e.out.fill(value);
    constexpr int64_t kBytes = sizeof(Value);
    const std::vector<int64_t> offset{0, kBytes}, count{kBytes, kBytes};
    e.transfer = experts_.all_to_all({bytes(e.in).data(), offset, count}, {bytes(e.out).data(), offset, count});
  }

  const Pipeline& pipeline_;
  int rank_;
  Communicator& experts_;
  double exchange_;
  std::map<std::pair<int, int>, Micro> micros_;
};

/// What the first expert rank of every stage does in a step, on threads.
Timeline measure(const Pipeline& pipeline, double message, double exchange) {
  std::deque<Post> pipelines, stages;
  for (int e = 0; e < kExpertRanks; ++e) pipelines.emplace_back(message);
  for (int r = 0; r < pipeline.ranks(); ++r) stages.emplace_back(exchange);
  std::vector<std::thread> threads;
  Timeline timeline;
  timeline.ranks.resize(static_cast<size_t>(pipeline.ranks()));
  const auto step = [&](int r, int e) {
    prctl(PR_SET_TIMERSLACK, 1);  // wakes up when it is time
    DelayedRank rank(pipelines[static_cast<size_t>(e)], r, pipeline.ranks());
    DelayedRank experts(stages[static_cast<size_t>(r)], e, kExpertRanks);
    WaitingWork work(pipeline, r, experts, exchange);
    const std::vector<Span> spans = run_pipeline(pipeline, rank, work);
    if (e == 0) timeline.ranks[static_cast<size_t>(r)] = spans;
    EXPECT_EQ(work.under_way(), 0u);
  };
  for (int r = 0; r < pipeline.ranks(); ++r)
    for (int e = 0; e < kExpertRanks; ++e) threads.emplace_back(step, r, e);
  for (std::thread& t : threads) t.join();
  return timeline;
}

Timeline simulated(const Pipeline& pipeline, double message, double exchange) {
  Costs costs{[](int, const Action&) { return 2 * kLayers * kPhase; }, message, message};
  costs.phases = [&](int, const StagePass& pass) { return phases_of(pass.step, exchange); };
  return simulate(pipeline, all_actions(pipeline), costs);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Keeps a picture of a timeline in the folder SLUICE_TIMELINES, if that is set.
void keep_picture(const std::string& name, const Timeline& timeline) {
  if (const char* folder = std::getenv("SLUICE_TIMELINES"))
    write_file(std::filesystem::path(folder) / (name + ".svg"), timeline_svg(timeline));
}

/// Median of five beside what the simulation says.
void expect_simulated_time(Schedule schedule, int P, double message, double exchange) {
  const Pipeline pipeline(schedule, P, 2 * P);
  const double expected = total_seconds(simulated(pipeline, message, exchange));
  std::vector<double> measured;
  for (int i = 0; i < 5; ++i) {
    const Timeline timeline = measure(pipeline, message, exchange);
    measured.push_back(total_seconds(timeline));
    keep_picture(fmt::format("{}-{}-{}", schedule_name(schedule), P, 1e3 * exchange), timeline);
  }
  const double seconds = median(measured);
  std::printf("%-9s P %d, M %2d, messages %.0f ms, exchanges %.0f ms: measured %.1f ms, simulated %.1f ms (%+.1f%%)\n",
              std::string(schedule_name(schedule)).c_str(), P, pipeline.micros(), 1e3 * message, 1e3 * exchange,
              1e3 * seconds, 1e3 * expected, 100 * (seconds / expected - 1));
  EXPECT_GT(seconds, 0.97 * expected);
  EXPECT_LT(seconds, 1.03 * expected);
}

TEST(PipelineTime, IsThatOfTheSimulation) {
  for (const Schedule schedule : all_schedules())
    for (const int P : {4, 8}) {
      expect_simulated_time(schedule, P, 0, 0);
      expect_simulated_time(schedule, P, 0.008, 0.003);
    }
}

/// The share of a rank's exchanges that it waits for.
double exposed_share(const std::vector<Span>& spans, double exchange) {
  double exchanged = 0;
  for (const Span& s : spans)
    if (s.phase >= 0) exchanged += phases_of(s.action.step, exchange)[static_cast<size_t>(s.phase)].transfer;
  return exposed_seconds({{spans}}, 0) / exchanged;
}

/// Only what ran in pairs. Spans of other actions stay as what the wait before a pair's phase is measured from.
std::vector<Span> pairs_of(std::vector<Span> spans) {
  for (Span& s : spans)
    if (!s.is_paired) s.phase = -1;
  return spans;
}

// Exchanges are shorter than the computation that they run under. Of all of a step's some have none: those of forwards
// without a partner, which are as many for any number of micro-batches.
TEST(PipelineTime, DualPipeHidesExchanges) {
  constexpr double kExchange = 0.8 * kPhase;
  struct Case {
    Schedule schedule;
    int ranks;
  };
  for (const Case& c :
       {Case{Schedule::one_f_one_b, 4}, {Schedule::dualpipe, 4}, {Schedule::dualpipe, 8}, {Schedule::dualpipev, 4}}) {
    const Pipeline pipeline(c.schedule, c.ranks, 20 * c.ranks);
    double all = 0, pairs = 0;
    for (const std::vector<Span>& spans : measure(pipeline, 0, kExchange).ranks) {
      all = std::max(all, exposed_share(spans, kExchange));
      if (pipeline.chunks() == 2) pairs = std::max(pairs, exposed_share(pairs_of(spans), kExchange));
    }
    std::printf("%-9s P %d, M %3d: exposed %.1f%% of all exchanges, %.1f%% of those of pairs, on the worst rank\n",
                std::string(schedule_name(c.schedule)).c_str(), c.ranks, pipeline.micros(), 100 * all, 100 * pairs);
    EXPECT_LT(pairs, 0.1);
    if (pipeline.chunks() == 2) {
      EXPECT_LT(all, 0.1);
    } else {
      EXPECT_GT(all, 0.3);
    }
  }
}

}  // namespace
}  // namespace sluice
