// The executor keeps the time that the simulation says: ranks are threads whose work is to wait, messages take a while.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

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
  Transfer all_reduce(const Tensor&) override { return {}; }
  Transfer reduce(const Tensor&, int) override { return {}; }
  Transfer broadcast(std::span<std::byte>, int) override { return {}; }
  Transfer all_to_all(const ByteRanges&, const ByteRanges&) override { return {}; }
  std::unique_ptr<Communicator> split(int) override { return nullptr; }

 private:
  class Receive : public Transfer::State {
   public:
    Receive(Post& post, int to, int from, int tag, std::span<std::byte> out)
        : post_(post), to_(to), from_(from), tag_(tag), out_(out) {}
    void wait() override { post_.take(from_, to_, tag_, out_); }
    bool is_done() const override { return false; }

   private:
    Post& post_;
    int to_, from_, tag_;
    std::span<std::byte> out_;
  };
  Post& post_;
  int rank_, size_;
};

/// Stages whose work is to wait. What flows through them is the number of stages passed and the micro-batch.
class WaitingWork : public StageWork {
 public:
  WaitingWork(const Pipeline& pipeline, int rank, const StepSeconds& seconds)
      : pipeline_(pipeline), rank_(rank), seconds_(seconds) {}

  std::span<std::byte> input(int chunk, int micro) override { return bytes(micros_[{chunk, micro}].in); }
  std::span<const std::byte> forward(int chunk, int micro) override {
    Micro& m = micros_[{chunk, micro}];
    const Place place{rank_, chunk};
    const bool is_direction_1 = pipeline_.schedule() == Schedule::dualpipe && chunk == 1;
    if (pipeline_.is_first(place)) m.in = {0, micro + 1000 * is_direction_1};
    EXPECT_EQ(m.in[0], pipeline_.stage(place));
    EXPECT_EQ(m.in[1], micro + 1000 * is_direction_1);
    wait(seconds_.F);
    m.out = {m.in[0] + 1, m.in[1]};
    if (pipeline_.is_last(place)) return {};
    return bytes(m.out);
  }
  std::span<std::byte> output_gradient(int chunk, int micro) override {
    return bytes(micros_[{chunk, micro}].gradient);
  }
  std::span<const std::byte> backward(int chunk, int micro, bool with_weights) override {
    Micro& m = micros_[{chunk, micro}];
    const Place place{rank_, chunk};
    if (pipeline_.is_last(place)) m.gradient = m.out;
    EXPECT_EQ(m.gradient, m.out) << "the gradient of this output";
    wait(with_weights ? seconds_.B : seconds_.Bi);
    if (pipeline_.is_first(place)) return {};
    return bytes(m.in);
  }
  void backward_weight(int, int) override { wait(seconds_.W); }
  void release(int chunk, int micro) override { micros_.erase({chunk, micro}); }
  size_t under_way() const { return micros_.size(); }

 private:
  using Value = std::array<int, 2>;
  struct Micro {
    Value in{}, out{}, gradient{};
  };
  static std::span<std::byte> bytes(Value& v) { return std::as_writable_bytes(std::span(v)); }
  static void wait(double seconds) { std::this_thread::sleep_for(Seconds(seconds)); }

  const Pipeline& pipeline_;
  int rank_;
  StepSeconds seconds_;
  std::map<std::pair<int, int>, Micro> micros_;
};

/// Seconds that a step takes on threads.
double measure(const Pipeline& pipeline, const StepSeconds& seconds, double message) {
  Post post(message);
  std::vector<std::thread> threads;
  const Clock::time_point begin = Clock::now();
  for (int r = 0; r < pipeline.ranks(); ++r)
    threads.emplace_back([&, r] {
      DelayedRank rank(post, r, pipeline.ranks());
      WaitingWork work(pipeline, r, seconds);
      run_pipeline(pipeline, rank, work);
      EXPECT_EQ(work.under_way(), 0u);
    });
  for (std::thread& t : threads) t.join();
  return Seconds(Clock::now() - begin).count();
}

/// An overlapped pair as the executor runs it: forward, then backward.
std::vector<std::vector<Action>> pairs_in_turn(const Pipeline& pipeline) {
  std::vector<std::vector<Action>> lists = all_actions(pipeline);
  for (std::vector<Action>& list : lists) {
    std::vector<Action> out;
    for (const Action& a : list) {
      if (a.step != Step::FB) {
        out.push_back(a);
        continue;
      }
      out.push_back({Step::F, a.chunk, a.micro});
      out.push_back({Step::B, a.other_chunk, a.other_micro});
    }
    list = out;
  }
  return lists;
}

/// Median of five beside what the simulation says.
void expect_simulated_time(Schedule schedule, int P, int M, double message) {
  const StepSeconds seconds{0.01, 0.02, 0.01, 0.01, 0.03};
  const Pipeline pipeline(schedule, P, M);
  Costs costs = uniform_costs(seconds);
  costs.forward_message = costs.backward_message = message;
  const double simulated = total_seconds(simulate(pipeline, pairs_in_turn(pipeline), costs));
  std::vector<double> measured;
  for (int i = 0; i < 5; ++i) measured.push_back(measure(pipeline, seconds, message));
  std::nth_element(measured.begin(), measured.begin() + 2, measured.end());
  std::printf("%-9s P %d, M %2d, messages %.0f ms: measured %.1f ms, simulated %.1f ms (%+.1f%%)\n",
              std::string(schedule_name(schedule)).c_str(), P, M, 1e3 * message, 1e3 * measured[2], 1e3 * simulated,
              100 * (measured[2] / simulated - 1));
  // On an idle machine within 2%; a busy one makes threads wait for longer.
  EXPECT_GT(measured[2], 0.97 * simulated);
  EXPECT_LT(measured[2], 1.08 * simulated);
}

TEST(PipelineTime, IsThatOfTheSimulation) {
  for (const Schedule schedule : all_schedules())
    for (const int P : {4, 8})
      for (const double message : {0.0, 0.005}) expect_simulated_time(schedule, P, 2 * P, message);
}

}  // namespace
}  // namespace sluice
