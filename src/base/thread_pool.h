// A fixed set of threads that run the tasks of one op together. Work is cut by the op, never by the number of threads,
// so results do not depend on it.
#pragma once
#include <atomic>
#include <exception>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace sluice {

class ThreadPool {
 public:
  /// `threads` >= 1 counts the caller, which works too. Throws Error when the system refuses a thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls fn(task, thread) for every task in [0, tasks); `thread` in [0, size()) names the scratch space to use.
  /// Returns when all are done. The first exception a task throws is rethrown here. Not reentrant, but
  /// for a run of one task, which the caller does itself: ops on one row may be called within a task.
  template <class F>
  void run(int64_t tasks, F&& fn) {
    using Fn = std::remove_reference_t<F>;
    run_erased(
        tasks, [](const void* f, int64_t task, int thread) { (*static_cast<Fn*>(const_cast<void*>(f)))(task, thread); },
        &fn);
  }

 private:
  using Call = void (*)(const void*, int64_t, int);
  void run_erased(int64_t tasks, Call call, const void* fn);
  void work(int thread);
  /// Takes the tasks that nobody has claimed off the list; returns how many. For a task that has failed.
  uint32_t skip_rest();
  void loop(int thread);
  void end_workers();

  std::vector<std::thread> workers_;
  // What run() is about. Written while state_ is closed; read only after a task has been claimed, and run() does not
  // return before that task is done.
  Call call_ = nullptr;
  const void* fn_ = nullptr;
  std::atomic<uint32_t> tasks_{0};
  // Upper half: which run(); lower half: the next task, or kClosed. A worker that comes late finds nothing to claim.
  std::atomic<uint64_t> state_{kClosed};
  std::atomic<uint32_t> done_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  static constexpr uint64_t kClosed = 0xffffffffu;
};

}  // namespace sluice
