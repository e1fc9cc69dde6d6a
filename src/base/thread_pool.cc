#include "base/thread_pool.h"

#include <utility>

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
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { loop(i); });
}

ThreadPool::~ThreadPool() {
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
  call_ = call;
  fn_ = fn;
  tasks_ = tasks;
  failed_ = false;
  next_.store(0, std::memory_order_relaxed);
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  work(0);
  for (int left = busy_.load(std::memory_order_acquire); left; left = busy_.load(std::memory_order_acquire))
    wait_while_equal(busy_, left);
  if (failed_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int thread) {
  try {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) call_(fn_, i, thread);
  } catch (...) {
    if (!failed_.exchange(true)) error_ = std::current_exception();
    next_.store(tasks_, std::memory_order_relaxed);
  }
}

void ThreadPool::loop(int thread) {
  uint32_t seen = 0;
  for (;;) {
    wait_while_equal(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    work(thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
  }
}

}  // namespace sluice
