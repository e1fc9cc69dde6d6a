// Messages between ranks: every rank runs every test.
#include <numeric>

#include "world.h"

namespace sluice::test {
namespace {

[[maybe_unused]] const auto* const kWorld = testing::AddGlobalTestEnvironment(new World);

/// Tensor over the elements of a vector.
template <class T>
Tensor view(std::vector<T>& v, DType dtype) {
  return Tensor(v.data(), dtype, {static_cast<int64_t>(v.size())});
}

TEST(Communicator, SumsAreThoseOfAllRanks) {
  const int P = world().size(), r = world().rank();
  std::vector<float> f(1000);
  std::iota(f.begin(), f.end(), static_cast<float>(r));
  std::vector<double> d{0.5 * (r + 1)};
  std::vector<int64_t> n{int64_t{1} << 40, r};
  world().all_reduce(view(f, DType::f32)).wait();
  world().all_reduce(view(d, DType::f64)).wait();
  world().all_reduce(view(n, DType::i64)).wait();
  const int sum = P * (P - 1) / 2;
  for (size_t i = 0; i < f.size(); ++i) ASSERT_EQ(f[i], static_cast<float>(P * static_cast<int>(i) + sum));
  EXPECT_EQ(d[0], 0.5 * (sum + P));
  EXPECT_EQ(n, (std::vector<int64_t>{P * (int64_t{1} << 40), sum}));
}

TEST(Communicator, ManyTransfersAtOnceFindTheirOwn) {
  const int P = world().size(), r = world().rank();
  constexpr size_t kCount = 40;
  std::vector<std::vector<float>> sums(kCount, std::vector<float>(100)), copies = sums;
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < kCount; ++i) {
    const int root = static_cast<int>(i) % P;
    sums[i].assign(100, static_cast<float>(r + static_cast<int>(i)));
    copies[i].assign(100, static_cast<float>(100 * r + static_cast<int>(i)));
    transfers.push_back(world().reduce(view(sums[i], DType::f32), root));
    transfers.push_back(world().broadcast(bytes_of(view(copies[i], DType::f32)), root));
  }
  for (const Transfer& t : transfers) t.wait();
  for (size_t i = 0; i < kCount; ++i) {
    const int root = static_cast<int>(i) % P, n = static_cast<int>(i);
    EXPECT_EQ(copies[i], std::vector<float>(100, static_cast<float>(100 * root + n)));
    if (r == root) {
      EXPECT_EQ(sums[i], std::vector<float>(100, static_cast<float>(P * (P - 1) / 2 + P * n)));
    }
  }
}

// Rank r sends r + 2 s bytes of value 16 r + s to rank s: none from 0 to 0.
TEST(Communicator, EachRankGetsItsRange) {
  const int P = world().size(), r = world().rank();
  const auto count = [](int from, int to) { return static_cast<int64_t>(from + 2 * to); };
  std::vector<std::byte> out, in(1000, std::byte{255});
  ByteRanges to{nullptr, {}, {}}, from{in.data(), {}, {}};
  int64_t begin = 0;
  for (int s = 0; s < P; ++s) {
    to.offset.push_back(static_cast<int64_t>(out.size()));
    to.count.push_back(count(r, s));
    out.insert(out.end(), static_cast<size_t>(count(r, s)), static_cast<std::byte>(16 * r + s));
    from.offset.push_back(begin);
    from.count.push_back(count(s, r));
    begin += count(s, r) + 3;  // gaps, which stay
  }
  to.data = out.data();
  world().all_to_all(from, to).wait();
  for (int s = 0; s < P; ++s)
    for (int64_t i = 0; i < count(s, r) + 3; ++i)
      EXPECT_EQ(in[static_cast<size_t>(from.offset[static_cast<size_t>(s)] + i)],
                i < count(s, r) ? static_cast<std::byte>(16 * s + r) : std::byte{255})
          << s << " " << i;
}

TEST(Communicator, MessagesArriveInTheirOrder) {
  const int P = world().size(), r = world().rank();
  if (P == 1) GTEST_SKIP() << "one rank";
  const int next = (r + 1) % P, previous = (r + P - 1) % P;
  std::vector<int64_t> out(10), in(10);
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = 100 * r + static_cast<int64_t>(i);
    transfers.push_back(world().receive(std::as_writable_bytes(std::span(&in[i], 1)), previous));
    transfers.push_back(world().send(std::as_bytes(std::span(&out[i], 1)), next));
  }
  for (const Transfer& t : transfers) t.wait();
  for (size_t i = 0; i < in.size(); ++i) EXPECT_EQ(in[i], 100 * previous + static_cast<int64_t>(i));
}

TEST(Communicator, PartsAreRanksOfOneColor) {
  const int P = world().size(), r = world().rank();
  const std::unique_ptr<Communicator> part = world().split(r % 2);
  EXPECT_EQ(part->size(), (P + 1 - r % 2) / 2);
  EXPECT_EQ(part->rank(), r / 2);
  std::vector<int64_t> n{1};
  part->all_reduce(view(n, DType::i64)).wait();
  EXPECT_EQ(n[0], part->size());
}

TEST(Communicator, TheFirstRanksValue) { EXPECT_EQ(agree(world(), 7 + world().rank()), 7); }

}  // namespace
}  // namespace sluice::test
