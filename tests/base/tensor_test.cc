#include "base/tensor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "base/arena.h"

namespace sluice {
namespace {

TEST(Tensor, SlicesAreViews) {
  std::vector<float> data(24);
  std::iota(data.begin(), data.end(), 0.0f);
  const Tensor t(data.data(), {2, 3, 4});
  EXPECT_EQ(t.rows(), 6);
  EXPECT_EQ(t.cols(), 4);
  EXPECT_EQ(t.size(), 24);
  EXPECT_EQ(t.bytes(), 96u);
  EXPECT_TRUE(t.packed());
  EXPECT_EQ(*static_cast<float*>(t.at(2, 1)), 9);

  const Tensor rows = t.slice_rows(1, 2);
  EXPECT_EQ(rows.rank, 2);
  EXPECT_EQ(rows.rows(), 2);
  EXPECT_EQ(rows.f32()[0], 4);
  EXPECT_TRUE(rows.packed());

  const Tensor cols = t.slice_cols(1, 2);
  EXPECT_EQ(cols.rows(), 6);
  EXPECT_EQ(cols.cols(), 2);
  EXPECT_EQ(cols.ld, 4);
  EXPECT_FALSE(cols.packed());
  EXPECT_EQ(*static_cast<float*>(cols.at(5, 1)), 22);
  EXPECT_EQ(cols.slice_rows(2, 3).slice_cols(1, 1).f32()[0], 10);
  EXPECT_TRUE(cols.slice_rows(3, 1).packed());  // one row has no gaps
  EXPECT_THROW(cols.reshape({12}), Bug);
}

TEST(Tensor, ReshapeAndHeads) {
  std::vector<float> data(24);
  std::iota(data.begin(), data.end(), 0.0f);
  const Tensor t(data.data(), {4, 6});
  const Tensor heads = t.split_heads(2);
  EXPECT_EQ(heads.rows(), 8);
  EXPECT_EQ(heads.cols(), 3);
  EXPECT_EQ(*static_cast<float*>(heads.at(3, 2)), 11);
  EXPECT_EQ(t.reshape({2, 2, 6}).rank, 3);
  EXPECT_THROW(t.reshape({5, 5}), Bug);
  EXPECT_THROW(t.split_heads(4), Bug);
  EXPECT_TRUE(same(t, t.reshape({2, 2, 6})));
  EXPECT_FALSE(same(t, heads));
}

TEST(Tensor, ChecksTypes) {
  std::vector<float> data(4);
  const Tensor t(data.data(), DType::bf16, {2, 4});
  EXPECT_THROW(t.f32(), Bug);
  EXPECT_THROW(t.ptr<float>(), Bug);
  EXPECT_NO_THROW(t.ptr<bf16>());
  EXPECT_EQ(t.at(1, 1), reinterpret_cast<char*>(data.data()) + 10);
  EXPECT_FALSE(Tensor());
  EXPECT_TRUE(static_cast<bool>(t));
  EXPECT_THROW(Tensor(data.data(), {1, 1, 1, 1, 1}), Bug);
}

/// Allocations of one step; the same on a real and on a counting arena.
void step(Arena& arena) {
  arena.f32(3, 5);
  const size_t mark = arena.mark();
  arena.alloc(DType::bf16, {100, 7});
  arena.alloc(DType::u8, {1});
  arena.release(mark);
  arena.alloc(DType::f64, {10});
}

TEST(Arena, CountingPeakIsTheRealPeak) {
  Arena counting = Arena::counting(), real(1 << 20);
  step(counting);
  step(real);
  EXPECT_EQ(counting.peak_bytes(), 64u + 1408 + 64);
  EXPECT_EQ(real.peak_bytes(), counting.peak_bytes());
  EXPECT_EQ(real.mark(), counting.mark());
  // An arena of exactly the counted size is enough.
  Arena exact(counting.peak_bytes());
  EXPECT_NO_THROW(step(exact));
}

TEST(Arena, ReleaseReusesMemoryAndTensorsDoNotOverlap) {
  Arena arena(1 << 16);
  const Tensor a = arena.f32(3, 3);
  const size_t mark = arena.mark();
  const Tensor b = arena.f32(5, 5);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data) % 64, 0u);
  EXPECT_GE(static_cast<char*>(b.data), static_cast<char*>(a.data) + a.bytes());
  arena.release(mark);
  EXPECT_EQ(arena.f32(1, 1).data, b.data);
  Arena moved = std::move(arena);
  std::memset(b.data, 1, b.bytes());
  EXPECT_EQ(moved.mark(), mark + 64);
}

TEST(Arena, AFullArenaIsAnError) {
  Arena arena(128);
  arena.f32(1, 16);
  arena.f32(1, 16);
  EXPECT_THROW(arena.f32(1, 1), Error);
}

TEST(Arena, CapacityIsAddressSpaceOnly) {
  Arena arena(size_t{1} << 40);  // far more than the machine has
  const Tensor t = arena.f32(1000, 1000);
  std::memset(t.data, 0, t.bytes());
  EXPECT_EQ(t.f32()[999999], 0);
}

}  // namespace
}  // namespace sluice
