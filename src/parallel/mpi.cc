// Between its beginning and its end one thread makes all calls of MPI: it begins transfers in the order in which they
// were asked for and drives them while the program computes.
#include "parallel/mpi.h"

#include <mpi.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace sluice::mpi {
namespace {

constexpr int kSilentRank = 71;  // exit code
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

/// Every rank tells the next one, now and then, that it lives and what it is at. A rank that is stopped, or whose
/// machine is gone, is named by the next one, which ends the run: the others would wait for it for ever.
class Pulse {
 public:
  Pulse() {
    MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    receive();
  }

  /// To be called often.
  void beat(const char* doing) {
    const Clock::time_point now = Clock::now();
    if (now - last_call_ > kInterval) last_heard_ = now;  // this rank was stopped itself, perhaps all were
    last_call_ = now;
    if (now - last_sent_ > kInterval) send(doing);
    int has_arrived = 0;
    if (is_watching_) MPI_Test(&arriving_, &has_arrived, MPI_STATUS_IGNORE);
    if (has_arrived) {
      last_heard_ = now;
      last_doing_ = heard_.data();
      is_watching_ = last_doing_ != kGoodbye;
      if (is_watching_) receive();
    }
    if (is_watching_ && now - last_heard_ > kSilence) give_up();
  }
  /// The others may stay for longer.
  void end() {
    if (is_sending_) MPI_Wait(&leaving_, MPI_STATUS_IGNORE);
    is_sending_ = false;
    send(kGoodbye);
    MPI_Wait(&leaving_, MPI_STATUS_IGNORE);
    if (is_watching_) MPI_Cancel(&arriving_);
    if (is_watching_) MPI_Wait(&arriving_, MPI_STATUS_IGNORE);
  }

 private:
  using Clock = std::chrono::steady_clock;
  using Text = std::array<char, 32>;
  static constexpr std::chrono::seconds kInterval{1}, kSilence{7};
  static constexpr const char* kGoodbye = "goodbye";

  int previous() const { return (rank_ + size_ - 1) % size_; }
  void receive() {
    MPI_Irecv(heard_.data(), static_cast<int>(heard_.size()), MPI_CHAR, previous(), 0, comm_, &arriving_);
  }
  void send(const char* doing) {
    int is_free = 1;
    if (is_sending_) MPI_Test(&leaving_, &is_free, MPI_STATUS_IGNORE);
    if (!is_free) return;
    said_ = {};
    std::strncpy(said_.data(), doing, said_.size() - 1);
    MPI_Isend(said_.data(), static_cast<int>(said_.size()), MPI_CHAR, (rank_ + 1) % size_, 0, comm_, &leaving_);
    is_sending_ = true;
    last_sent_ = Clock::now();
  }
  void give_up() const {
    fmt::print(stderr, "sluice: rank {} has been silent for {} s; it was at: {}; the run ends\n", previous(),
               kSilence.count(), last_doing_);
    MPI_Abort(comm_, kSilentRank);
  }

  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  MPI_Request arriving_, leaving_;
  Text heard_{}, said_{};
  bool is_watching_ = true, is_sending_ = false;
  std::string last_doing_ = "its start";
  Clock::time_point last_heard_ = Clock::now(), last_sent_{}, last_call_ = Clock::now();
};

/// The thread, and MPI from its beginning to its end.
class Engine {
 public:
  Engine() {
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
  ~Engine() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
      is_failing_ = std::uncaught_exceptions() > 0;
    }
    wake_.notify_one();
    thread_.join();
    // Other ranks wait in transfers that this one will not make: the caller ends them all.
    if (!is_failing_) MPI_Finalize();
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

 private:
  void drive() {
    Pulse pulse;
    std::vector<std::shared_ptr<Job>> running;
    for (int idle = 0; take_posted(running); ++idle) {
      pulse.beat(running.empty() ? "computing" : running.front()->name());
      const auto over = std::partition(running.begin(), running.end(), [&](const auto& job) {
        pulse.beat(job->name());  // between sums, which MPI computes when it is asked
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
    if (!is_failing_) pulse.end();
  }

  /// Begins what was posted; waits a little where nothing runs. False at the end.
  bool take_posted(std::vector<std::shared_ptr<Job>>& running) {
    std::deque<std::shared_ptr<Job>> jobs;
    {
      std::unique_lock lock(mutex_);
      if (running.empty())
        wake_.wait_for(lock, std::chrono::milliseconds(100), [&] { return is_ending_ || !posted_.empty(); });
      if (is_ending_ && posted_.empty()) return false;
      jobs.swap(posted_);
    }
    for (const auto& job : jobs) {
      job->begin();
      running.push_back(job);
    }
    return true;
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> posted_;
  bool is_ending_ = false, is_failing_ = false;
  int rank_ = 0, size_ = 1;
  std::thread thread_;
};

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
  MpiCommunicator(std::shared_ptr<Engine> engine, MPI_Comm comm, int rank, int size)
      : engine_(std::move(engine)), comm_(comm), rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Transfer all_reduce(const Tensor& data) override {
    return sum("all-reduce", data, [comm = comm_](void* at, int count, MPI_Datatype type) {
      MPI_Request request;
      MPI_Iallreduce(MPI_IN_PLACE, at, count, type, MPI_SUM, comm, &request);
      return request;
    });
  }
  Transfer reduce(const Tensor& data, int root) override {
    return sum("reduce", data, [comm = comm_, root, is_root = rank_ == root](void* at, int count, MPI_Datatype type) {
      MPI_Request request;
      MPI_Ireduce(is_root ? MPI_IN_PLACE : at, is_root ? at : nullptr, count, type, MPI_SUM, root, comm, &request);
      return request;
    });
  }
  Transfer broadcast(std::span<std::byte> data, int root) override {
    return engine_->post("broadcast", [comm = comm_, data, root](Requests& requests) {
      each_piece(static_cast<int64_t>(data.size()), [&](int64_t begin, int count) {
        MPI_Ibcast(data.data() + begin, count, MPI_BYTE, root, comm, &requests.emplace_back());
      });
    });
  }
  Transfer all_to_all(const ByteRanges& in, const ByteRanges& out) override {
    return engine_->post("all-to-all", [comm = comm_, in, out](Requests& requests) {
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
    return engine_->post("send", [comm = comm_, data, to, tag](Requests& requests) {
      each_piece(static_cast<int64_t>(data.size()), [&](int64_t begin, int count) {
        MPI_Isend(data.data() + begin, count, MPI_BYTE, to, kMessage + tag, comm, &requests.emplace_back());
      });
    });
  }
  Transfer receive(std::span<std::byte> data, int from, int tag) override {
    return engine_->post("receive", [comm = comm_, data, from, tag](Requests& requests) {
      each_piece(static_cast<int64_t>(data.size()), [&](int64_t begin, int count) {
        MPI_Irecv(data.data() + begin, count, MPI_BYTE, from, kMessage + tag, comm, &requests.emplace_back());
      });
    });
  }
  std::unique_ptr<Communicator> split(int color) override {
    // Where ranks arrive at different times, they wait in a transfer, not in the call, which would keep the thread.
    engine_->post("split", [&](Requests& requests) { MPI_Ibarrier(comm_, &requests.emplace_back()); }).wait();
    std::unique_ptr<Communicator> part;
    engine_
        ->post("split",
               [&](Requests&) {
                 MPI_Comm comm;
                 MPI_Comm_split(comm_, color, rank_, &comm);
                 int rank = 0, size = 1;
                 MPI_Comm_rank(comm, &rank);
                 MPI_Comm_size(comm, &size);
                 part = std::make_unique<MpiCommunicator>(engine_, comm, rank, size);
               })
        .wait();
    return part;
  }

 private:
  static constexpr int kExchange = 1, kMessage = 2;  // tags, the first of messages

  template <class Begin>
  Transfer sum(const char* name, const Tensor& data, Begin begin_one) {
    const MPI_Datatype type = type_of(data.dtype);
    const int64_t size = static_cast<int64_t>(dtype_size(data.dtype));
    return engine_->post(name, [bytes = bytes_of(data), type, size, begin_one](Requests& requests) {
      each_piece(static_cast<int64_t>(bytes.size()), [&](int64_t begin, int count) {
        requests.push_back(begin_one(bytes.data() + begin, static_cast<int>(count / size), type));
      });
    });
  }

  std::shared_ptr<Engine> engine_;
  MPI_Comm comm_;
  int rank_, size_;
};

}  // namespace

std::unique_ptr<Communicator> world() {
  auto engine = std::make_shared<Engine>();
  const int rank = engine->rank(), size = engine->size();
  return std::make_unique<MpiCommunicator>(std::move(engine), MPI_COMM_WORLD, rank, size);
}

void abort(int exit_code) {
  int has_begun = 0, has_ended = 0;
  MPI_Initialized(&has_begun);
  MPI_Finalized(&has_ended);
  if (has_begun && !has_ended) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

}  // namespace sluice::mpi
