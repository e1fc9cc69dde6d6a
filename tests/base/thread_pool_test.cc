#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "base/stream.h"

namespace sluice {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (const int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      std::atomic<bool> bad_thread = false;
      pool.run(tasks, [&](int64_t task, int thread) {
        ++runs[static_cast<size_t>(task)];
        if (thread < 0 || thread >= threads) bad_thread = true;
      });
      for (const auto& n : runs) ASSERT_EQ(n, 1);
      EXPECT_FALSE(bad_thread);
    }
  }
}

TEST(ThreadPool, NoTwoTasksShareAThreadNumberAtOnce) {
  ThreadPool pool(5);
  std::vector<std::atomic<int>> inside(5);
  std::atomic<int> clashes = 0;
  pool.run(2000, [&](int64_t, int thread) {
    auto& n = inside[static_cast<size_t>(thread)];
    if (n.fetch_add(1) != 0) ++clashes;
    std::this_thread::yield();
    --n;
  });
  EXPECT_EQ(clashes, 0);
}

TEST(ThreadPool, RethrowsAndStaysUsable) {
  for (const int threads : {1, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      EXPECT_THROW(pool.run(100,
                            [&](int64_t task, int) {
                              if (task == 37) throw std::runtime_error("x");
                            }),
                   std::runtime_error);
      EXPECT_THROW(pool.run(100, [](int64_t, int) { throw std::logic_error("all"); }), std::logic_error);
      std::atomic<int> runs = 0;
      pool.run(100, [&](int64_t, int) { ++runs; });
      ASSERT_EQ(runs, 100);
    }
  }
}

TEST(ThreadPool, AnExceptionEndsTheRunEarly) {
  ThreadPool pool(3);
  auto fifth_fails = [](int64_t task, int) {
    if (task == 5) throw std::runtime_error("x");
  };
  EXPECT_THROW(pool.run(int64_t{1} << 31, fifth_fails), std::runtime_error);  // all tasks would take days
}

TEST(ThreadPool, ManyTinyRuns) {
  for (const int threads : {2, 5}) {
    ThreadPool pool(threads);
    std::atomic<int64_t> sum = 0;
    for (int i = 0; i < 1000; ++i) pool.run(3, [&](int64_t task, int) { sum += task; });
    EXPECT_EQ(sum, 1000 * 3);
  }
}

TEST(ThreadPool, WritesOfTasksAreSeenAfterRun) {
  ThreadPool pool(4);
  std::vector<int64_t> values(1000);
  for (int64_t round = 1; round < 200; ++round) {
    pool.run(1000, [&](int64_t task, int) { values[static_cast<size_t>(task)] = round; });
    for (const int64_t v : values) ASSERT_EQ(v, round);
  }
}

TEST(Stream, ParallelForCoversTheRange) {
  Stream s(3);
  EXPECT_EQ(s.threads(), 3);
  EXPECT_FALSE(s.is_dry());
  for (const int64_t n : {0, 1, 9, 10, 11, 101}) {
    std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
    parallel_for(s, n, 10, [&](int64_t begin, int64_t end, int) {
      EXPECT_LE(end - begin, 10);
      for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
    });
    for (const auto& count : seen) EXPECT_EQ(count, 1);
  }
  EXPECT_TRUE(Stream::dry().is_dry());
}

TEST(Stream, ScratchIsAlignedPrivateAndGrows) {
  Stream s(2);
  float* a = s.scratch(0, 10);
  float* b = s.scratch(1, 10);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 64, 0u);
  EXPECT_TRUE(b + 10 <= a || a + 10 <= b);
  EXPECT_EQ(s.scratch(0, 5), a);
  float* big = s.scratch(0, 100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(big) % 64, 0u);
  for (int i = 0; i < 100000; ++i) big[i] = 1;
}

}  // namespace
}  // namespace sluice
