#include "base/thread_pool.h"

#include <system_error>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

constexpr int kSpins = 4000;  // about 20 us: longer than the gap between two ops, shorter than a scheduler slice

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class T>
void wait_while_equal(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { loop(i); });
  } catch (const std::system_error&) {
    const size_t started = workers_.size() + 1;
    end_workers();
    fail("threads: the system allows {} of the {} asked for", started, threads);
  }
}

ThreadPool::~ThreadPool() { end_workers(); }

void ThreadPool::end_workers() {
  stop_ = true;
  ++generation_;
  generation_.notify_all();
  for (auto& w : workers_) w.join();
}

void ThreadPool::run_erased(int64_t tasks, Call call, const void* fn) {
  if (tasks <= 0) return;
  if (workers_.empty() || tasks == 1) {
    for (int64_t i = 0; i < tasks; ++i) call(fn, i, 0);
    return;
  }
  check(tasks < static_cast<int64_t>(kClosed), "ThreadPool::run: expected fewer than 2^32 - 1 tasks");
  const uint64_t run = ((state_.load(std::memory_order_relaxed) >> 32) + 1) << 32;
  state_.store(run | kClosed, std::memory_order_seq_cst);
  call_ = call;
  fn_ = fn;
  tasks_.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  state_.store(run, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  for (uint32_t done; (done = done_.load(std::memory_order_acquire)) != tasks;) wait_while_equal(done_, done);
  if (failed_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int thread) {
  for (;;) {
    uint64_t state = state_.load(std::memory_order_acquire);
    const uint64_t task = state & kClosed;
    if (task >= tasks_.load(std::memory_order_acquire)) return;
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
    uint32_t finished = 1;
    try {
      call_(fn_, static_cast<int64_t>(task), thread);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
      finished += skip_rest();
    }
    const uint32_t tasks = tasks_.load(std::memory_order_relaxed);
    if (done_.fetch_add(finished, std::memory_order_acq_rel) + finished == tasks) done_.notify_all();
  }
}

uint32_t ThreadPool::skip_rest() {
  const uint64_t tasks = tasks_.load(std::memory_order_relaxed);
  uint64_t state = state_.load(std::memory_order_relaxed);
  while ((state & kClosed) < tasks)
    if (state_.compare_exchange_weak(state, (state & ~kClosed) | tasks, std::memory_order_acq_rel))
      return static_cast<uint32_t>(tasks - (state & kClosed));
  return 0;
}

void ThreadPool::loop(int thread) {
  uint32_t seen = 0;
  for (;;) {
    wait_while_equal(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    work(thread);
  }
}

}  // namespace sluice
