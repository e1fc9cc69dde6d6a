// Between its beginning and its end one thread makes all calls of MPI: it begins transfers in the order in which they
// were asked for and drives them while the program computes.
#include "parallel/mpi.h"

#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "parallel/mpi_pulse.h"

namespace sluice::mpi {
namespace {

constexpr int kMostTag = (1 << 24) + 2;
constexpr int64_t kMostBytes = int64_t{1} << 30;  // of one call of MPI, which counts with int

using Requests = std::vector<MPI_Request>;

class Job : public Transfer::State {
 public:
  Job(const char* name, std::function<void(Requests&)> begin) : name_(name), begin_(std::move(begin)) {}
  const char* name() const { return name_; }
  void begin() { begin_(requests_); }
  bool is_over() {
    int all = 0;
    MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE);
    return all;
  }
  void end() {
    is_done_.store(true, std::memory_order_release);
    is_done_.notify_all();
  }
  bool is_done() const override { return is_done_.load(std::memory_order_acquire); }
  void wait() override { is_done_.wait(false, std::memory_order_acquire); }

 private:
  const char* name_;
  std::function<void(Requests&)> begin_;
  Requests requests_;
  std::atomic<bool> is_done_ = false;
};

/// The thread, and MPI from its beginning to its end.
class Engine {
 public:
  explicit Engine(std::function<bool()> is_told_to_stop) : is_told_to_stop_(std::move(is_told_to_stop)) {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
    if (provided < MPI_THREAD_SERIALIZED) fail("MPI: expected one that lets another thread call it, found none");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &size_);
    int has_bound = 0, *most_tag = nullptr;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &most_tag, &has_bound);
    if (!has_bound || *most_tag < kMostTag) fail("MPI: expected tags up to {}, found one without", kMostTag);
    thread_ = std::thread([this] { drive(); });
  }
  /// Waits for all ranks.
  ~Engine() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    wake_.notify_one();
    thread_.join();
    MPI_Finalize();
  }
  Engine(const Engine&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// `name` says what it is; for ever valid.
  Transfer post(const char* name, std::function<void(Requests&)> begin) {
    auto job = std::make_shared<Job>(name, std::move(begin));
    {
      const std::lock_guard lock(mutex_);
      posted_.push_back(job);
    }
    wake_.notify_one();
    return Transfer(job);
  }
  void note_phase(const char* phase) { phase_.store(phase, std::memory_order_relaxed); }
  /// From any thread.
  [[noreturn]] void end_run(const std::string& why, int exit_code) {
    {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = Failure{why, exit_code};
    }
    wake_.notify_one();
    std::this_thread::sleep_for(std::chrono::seconds(10));
    std::_Exit(exit_code);  // MPI did not manage
  }

 private:
  struct Failure {
    std::string why;
    int exit_code;
  };

  void drive() {
    Pulse pulse(is_told_to_stop_);
    std::vector<std::shared_ptr<Job>> running;
    for (int idle = 0; take_posted(running, pulse); ++idle) {
      pulse.beat(activity(running.empty() ? nullptr : running.front()->name()));
      const auto over = std::partition(running.begin(), running.end(), [&](const auto& job) {
        pulse.beat(activity(job->name()));  // between sums, which MPI computes when it is asked
        return !job->is_over();
      });
      if (over != running.end()) idle = 0;
      std::for_each(over, running.end(), [](const auto& job) { job->end(); });
      running.erase(over, running.end());
      // Where ranks share cores, asking all the time would take them from those that compute.
      constexpr int kYields = 200;
      if (idle < kYields)
        std::this_thread::yield();
      else if (!running.empty())
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    while (!pulse.is_everybody_done()) {
      pulse.beat({"its end", nullptr});
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  Activity activity(const char* transfer) const { return {phase_.load(std::memory_order_relaxed), transfer}; }

  /// Begins what was posted; waits a little where nothing runs. False at the end.
  bool take_posted(std::vector<std::shared_ptr<Job>>& running, Pulse& pulse) {
    std::deque<std::shared_ptr<Job>> jobs;
    {
      std::unique_lock lock(mutex_);
      if (running.empty())
        wake_.wait_for(lock, std::chrono::milliseconds(100),
                       [&] { return is_ending_ || !posted_.empty() || (failure_ && !has_told_); });
      if (failure_ && !has_told_) pulse.end_run(fmt::format("rank {}: {}", rank_, failure_->why), failure_->exit_code);
      has_told_ = failure_.has_value();
      if (is_ending_ && posted_.empty()) return false;
      jobs.swap(posted_);
    }
    for (const auto& job : jobs) {
      job->begin();
      running.push_back(job);
    }
    return true;
  }

  std::function<bool()> is_told_to_stop_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> posted_;
  std::optional<Failure> failure_;
  bool is_ending_ = false, has_told_ = false;
  std::atomic<const char*> phase_ = "its start";
  int rank_ = 0, size_ = 1;
  std::thread thread_;
};

/// From the beginning of MPI to its end. A rank that fails keeps it: its thread tells the others, and transfers that
/// are under way still write to memory.
std::unique_ptr<Engine>& the_engine() {
  static auto* const engine = new std::unique_ptr<Engine>;
  return *engine;
}

MPI_Datatype type_of(DType dtype) {
  check(dtype == DType::f32 || dtype == DType::f64 || dtype == DType::i64, "communicator: sums of f32, f64 and i64");
  return dtype == DType::f32 ? MPI_FLOAT : dtype == DType::f64 ? MPI_DOUBLE : MPI_INT64_T;
}

/// fn(begin, count) for pieces of `bytes`.
template <class Fn>
void each_piece(int64_t bytes, Fn&& fn) {
  for (int64_t begin = 0; begin < bytes; begin += kMostBytes)
    fn(begin, static_cast<int>(std::min(kMostBytes, bytes - begin)));
}

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(Engine& engine, MPI_Comm comm) : engine_(engine), comm_(comm) {
    MPI_Comm_rank(comm, &rank_);
    MPI_Comm_size(comm, &size_);
  }
  ~MpiCommunicator() override {
    if (comm_ == MPI_COMM_WORLD || std::uncaught_exceptions() > 0) return;
    engine_.post("end of a group", [this](Requests&) { MPI_Comm_free(&comm_); }).wait();
  }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Transfer all_reduce(const Tensor& data) override {
    if (rank_ > 0) traffic_.all_reduced += 2 * static_cast<int64_t>(data.bytes());
    return sum("all-reduce", data, [comm = comm_](void* at, int count, MPI_Datatype type) {
      MPI_Request request;
      MPI_Iallreduce(MPI_IN_PLACE, at, count, type, MPI_SUM, comm, &request);
      return request;
    });
  }
  Transfer reduce(const Tensor& data, int root) override {
    if (rank_ != root) traffic_.reduced += static_cast<int64_t>(data.bytes());
    return sum("reduce", data, [comm = comm_, root, is_root = rank_ == root](void* at, int count, MPI_Datatype type) {
      MPI_Request request;
      MPI_Ireduce(is_root ? MPI_IN_PLACE : at, is_root ? at : nullptr, count, type, MPI_SUM, root, comm, &request);
      return request;
    });
  }
  Transfer broadcast(std::span<std::byte> data, int root) override {
    if (rank_ != root) traffic_.broadcast += static_cast<int64_t>(data.size());
    return engine_.post("broadcast", [comm = comm_, data, root](Requests& requests) {
      each_piece(static_cast<int64_t>(data.size()), [&](int64_t begin, int count) {
        MPI_Ibcast(data.data() + begin, count, MPI_BYTE, root, comm, &requests.emplace_back());
      });
    });
  }
  Transfer all_to_all(const ByteRanges& in, const ByteRanges& out) override {
    const int64_t all = std::accumulate(out.count.begin(), out.count.end(), int64_t{0});
    traffic_.exchanged += all - out.count[static_cast<size_t>(rank_)];
    return engine_.post("all-to-all", [comm = comm_, in, out](Requests& requests) {
      for (size_t r = 0; r < in.count.size(); ++r)
        each_piece(in.count[r], [&](int64_t begin, int count) {
          MPI_Irecv(in.data + in.offset[r] + begin, count, MPI_BYTE, static_cast<int>(r), kExchange, comm,
                    &requests.emplace_back());
        });
      for (size_t r = 0; r < out.count.size(); ++r)
        each_piece(out.count[r], [&](int64_t begin, int count) {
          MPI_Isend(out.data + out.offset[r] + begin, count, MPI_BYTE, static_cast<int>(r), kExchange, comm,
                    &requests.emplace_back());
        });
    });
  }
  Transfer send(std::span<const std::byte> data, int to, int tag) override {
    traffic_.sent += static_cast<int64_t>(data.size());
    return engine_.post("send", [comm = comm_, data, to, tag](Requests& requests) {
      each_piece(static_cast<int64_t>(data.size()), [&](int64_t begin, int count) {
        MPI_Isend(data.data() + begin, count, MPI_BYTE, to, kMessage + tag, comm, &requests.emplace_back());
      });
    });
  }
  Transfer receive(std::span<std::byte> data, int from, int tag) override {
    return engine_.post("receive", [comm = comm_, data, from, tag](Requests& requests) {
      each_piece(static_cast<int64_t>(data.size()), [&](int64_t begin, int count) {
        MPI_Irecv(data.data() + begin, count, MPI_BYTE, from, kMessage + tag, comm, &requests.emplace_back());
      });
    });
  }
  std::unique_ptr<Communicator> split(int color) override {
    // Where ranks arrive at different times, they wait in a transfer, not in the call, which would keep the thread.
    engine_.post("split", [&](Requests& requests) { MPI_Ibarrier(comm_, &requests.emplace_back()); }).wait();
    std::unique_ptr<Communicator> part;
    engine_
        .post("split",
              [&](Requests&) {
                MPI_Comm comm;
                MPI_Comm_split(comm_, color, rank_, &comm);
                part = std::make_unique<MpiCommunicator>(engine_, comm);
              })
        .wait();
    return part;
  }
  Traffic traffic() const override { return traffic_; }
  void note_phase(const char* phase) override { engine_.note_phase(phase); }

 private:
  static constexpr int kExchange = 1, kMessage = 2;  // tags, the first of messages

  template <class Begin>
  Transfer sum(const char* name, const Tensor& data, Begin begin_one) {
    const MPI_Datatype type = type_of(data.dtype);
    const int64_t size = static_cast<int64_t>(dtype_size(data.dtype));
    return engine_.post(name, [bytes = bytes_of(data), type, size, begin_one](Requests& requests) {
      each_piece(static_cast<int64_t>(bytes.size()), [&](int64_t begin, int count) {
        requests.push_back(begin_one(bytes.data() + begin, static_cast<int>(count / size), type));
      });
    });
  }

  Engine& engine_;
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  Traffic traffic_;
};

class World : public MpiCommunicator {
 public:
  World() : MpiCommunicator(*the_engine(), MPI_COMM_WORLD) {}
  ~World() override {
    if (std::uncaught_exceptions() == 0) the_engine().reset();
  }
};

}  // namespace

std::unique_ptr<Communicator> world(std::function<bool()> is_told_to_stop) {
  the_engine() = std::make_unique<Engine>(std::move(is_told_to_stop));
  return std::make_unique<World>();
}

void abort(int exit_code, const std::string& why) {
  if (the_engine()) the_engine()->end_run(why, exit_code);
}

}  // namespace sluice::mpi
