// Ops of a GPU that are several others at once: the bits of those, or values near those of exact ones.
#include "ops/fused.h"

#include <cmath>
#include <cstring>

#include "op_test.h"
#include "ops/moe.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/sample.h"
#include "ops/swiglu.h"

namespace sluice::test {
namespace {

class CudaFused : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU";
    tested_device() = Device::Kind::cuda;
  }
  void TearDown() override { tested_device() = Device::Kind::cpu; }
  Stream& s() { return *tested_streams().front(); }
  Rng rng{3};
  Host random(int64_t rows, int64_t cols) { return random_host(rng, DType::f32, rows, cols); }
};

/// Prepared rows in memory that both sides address, poisoned.
struct Prepared {
  SharedVector<uint64_t> memory;
  PreparedRows rows;
  size_t bytes;
  Prepared(int64_t T, int64_t K, Activations kind = Activations::halves)
      : bytes(prepared_row_bytes(K, kind) * static_cast<size_t>(T)) {
    memory.assign(bytes / 8 + 16, ~uint64_t{0});
    const uintptr_t at = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
    rows = {reinterpret_cast<std::byte*>(at), T, K, kind};
  }
  bool operator==(const Prepared& o) const {
    return bytes == o.bytes && std::memcmp(rows.data, o.rows.data, bytes) == 0;
  }
};

/// prepare_rows() of a tensor.
Prepared prepared(Stream& s, const Tensor& x) {
  Prepared p(x.rows(), x.cols());
  prepare_rows(s, p.rows, x);
  s.synchronize();
  return p;
}

TEST_F(CudaFused, NormRows) {
  for (const int64_t D : {8, 200, 2048}) {
    const Host x = random(5, D), w = random(1, D);
    Host y(DType::f32, 5, D), r(DType::f32, 1, 5);
    Prepared halves(5, D), floats(5, D, Activations::floats);
    rmsnorm_forward(s(), y, r.tensor().reshape({5}), x, w, 1e-6f);
    norm_rows(s(), halves.rows, floats.rows, x, w, 1e-6f);
    EXPECT_TRUE(halves == prepared(s(), y)) << D;
    for (int64_t t = 0; t < 5; ++t)
      EXPECT_EQ(0, std::memcmp(floats.rows.slice(t, 1).data, y.tensor().at(t), static_cast<size_t>(D) * 4)) << D;
  }
}

TEST_F(CudaFused, SwigluRows) {
  const Host g = random(7, 200), u = random(7, 200);
  Host y(DType::f32, 7, 200);
  Prepared halves(7, 200);
  swiglu_forward(s(), y, g, u);
  swiglu_rows(s(), halves.rows, g, u);
  EXPECT_TRUE(halves == prepared(s(), y));
}

/// Three rows of two sequences on pages that are not in order.
struct ThreePlaces {
  Host position = i32_vector({63, 64, 5}), sequence = i32_vector({1, 1, 0});
  Host pages = Host(DType::i32, 2, 2).set(std::vector<int64_t>{2, 0, 1, 3});
  CachePlaces places() { return {position, sequence, pages}; }
};

TEST_F(CudaFused, LatentRows) {
  constexpr int64_t C = 136, R = 24, Q = 48;
  ThreePlaces at;
  const Host raw = random(3, C + R), c = random(3, Q), kv_norm = random(1, C), q_norm = random(1, Q),
             table = random(70, R);
  Host key(DType::f32, 3, C + R), q(DType::f32, 3, Q), r(DType::f32, 1, 3);
  Host expected(DType::bf16, 4 * kPageTokens, C + R), cache(DType::bf16, 4 * kPageTokens, C + R);
  expected.fill(0), cache.fill(0);
  const Tensor factors = r.tensor().reshape({3});
  std::memcpy(key.tensor().data, raw.tensor().data, raw.bytes().size());
  rmsnorm_forward(s(), key.tensor().slice_cols(0, C), factors, raw.tensor().slice_cols(0, C), kv_norm, 1e-6f);
  rope_forward(s(), key.tensor().slice_cols(C, R), at.position, table);
  infer_cache_rows(s(), expected, key, at.places());
  rmsnorm_forward(s(), q, factors, c, q_norm, 1e-6f);
  Prepared halves(3, Q);
  latent_rows(s(), cache, halves.rows, {raw, c, kv_norm, q_norm, table, 1e-6f}, at.places());
  s().synchronize();
  EXPECT_TRUE(cache.bytes() == expected.bytes());
  EXPECT_TRUE(halves == prepared(s(), q));
}

TEST_F(CudaFused, QueriesAndHeads) {
  for (const LatentShape& a : {LatentShape{3, 24, 16, 40, 72, 1}, LatentShape{16, 128, 64, 128, 512, 1}})
    for (const int64_t T : {1, 9, 70}) {  // of which the last is a prompt's
      const int64_t text = T - (T > 1);
      const Host table = random(100, a.rope),
                 kv_b = random_host(rng, DType::bf16, a.heads * (a.nope + a.value), a.latent);
      Host q = random(T, a.heads * (a.nope + a.rope)), rotated(DType::f32, T, q.tensor().cols());
      SharedVector<int32_t> position(static_cast<size_t>(T));
      for (int64_t t = 0; t < T; ++t) position[static_cast<size_t>(t)] = static_cast<int32_t>((37 * t) % 100);
      const Tensor position_T(position.data(), DType::i32, {T});
      std::memcpy(rotated.tensor().data, q.tensor().data, q.bytes().size());
      rope_forward(s(), rotated.tensor().split_heads(a.heads).slice_cols(a.nope, a.rope), position_T, table);
      Host qa(DType::f32, text, a.heads * a.row()), o(DType::f32, text, a.heads * a.value);
      const Host u = random(text, a.heads * a.latent);
      Prepared nope(text * a.heads, a.nope);
      query_rows(s(), qa, nope.rows, q, position_T, table, a);
      SharedVector<uint64_t> memory(packed_heads_bytes(a) / 8 + 8);
      const uintptr_t aligned = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
      const PackedHeads w = pack_heads(s(), reinterpret_cast<std::byte*>(aligned), as_matrix(kv_b.tensor()), a);
      absorb_rows(s(), qa, nope.rows, w, a);
      const Prepared latents = prepared(s(), Tensor(u.tensor().data, DType::f32, {text * a.heads, a.latent}));
      expand_rows(s(), o, latents.rows, w, a);
      s().synchronize();
      const Mat<double> queries = rotated.get(), weight = kv_b.get(), got = qa.get(), values = o.get(), sums = u.get();
      const auto half = [](double v) { return static_cast<double>(static_cast<float>(bf16(static_cast<float>(v)))); };
      for (int64_t t = 0; t < text; ++t)
        for (int64_t h = 0; h < a.heads; ++h) {
          const int64_t first = h * (a.nope + a.value), from = h * (a.nope + a.rope);
          for (int64_t i = 0; i < a.rope; ++i)
            ASSERT_NEAR(got(t, h * a.row() + a.latent + i), queries(t, from + a.nope + i), 1e-6);
          for (int64_t c = 0; c < a.latent; c += 7) {
            double sum = 0;
            for (int64_t n = 0; n < a.nope; ++n) sum += half(queries(t, from + n)) * weight(first + n, c);
            ASSERT_NEAR(got(t, h * a.row() + c), sum, 1e-3) << t << " " << h << " " << c;
          }
          for (int64_t v = 0; v < a.value; v += 3) {
            double sum = 0;
            for (int64_t c = 0; c < a.latent; ++c)
              sum += half(sums(t, h * a.latent + c)) * weight(first + a.nope + v, c);
            ASSERT_NEAR(values(t, h * a.value + v), sum, 1e-3) << t << " " << h << " " << v;
          }
        }
      if (text < T) {
        const Mat<double> prompt = q.get();
        for (int64_t i = 0; i < q.tensor().cols(); ++i) ASSERT_NEAR(prompt(text, i), queries(text, i), 1e-6);
      }
    }
}

TEST_F(CudaFused, CombineRows) {
  constexpr int64_t T = 5, K = 3, D = 40;
  const Host y = random(T * K + T, D), weight = random(T, K);
  Host row = Host(DType::i32, T, K), h = random(T, D), expected(DType::f32, T, D);
  std::vector<int64_t> order(T * K);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i * 7 % order.size());
  row.set(order);
  std::memcpy(expected.tensor().data, h.tensor().data, h.bytes().size());
  moe_combine_forward(s(), expected, y.tensor().slice_rows(0, T * K), weight, row, Out::add);
  combine_rows(s(), h, y, weight, row);
  s().synchronize();
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i < D; ++i) ASSERT_NEAR(h.get()(t, i), expected.get()(t, i) + y.get()(T * K + t, i), 1e-5);
}

TEST_F(CudaFused, DrawsAreThoseOfTheRule) {
  constexpr int64_t V = 5003, limit = 5000;
  Stream host(1);
  Host logits(DType::f32, 60, V), work(DType::f32, 1, V);
  logits = random_host(rng, DType::f32, 60, V, Rows::packed, 3.0);
  SharedVector<DrawKey> keys;
  SharedVector<int32_t> ids(60, -1);
  SamplingRule rule;
  for (uint64_t t = 0; t < 60; ++t)
    keys.push_back(DrawKey::of(t % 3 ? 0.5f * static_cast<float>(t % 3) : 0, Rng(7, t)));
  draw_rows(s(), Tensor(ids.data(), DType::i32, {60}), logits, Tensor(keys.data(), DType::i32, {60, 3}), limit);
  s().synchronize();
  int undecided = 0;
  for (uint64_t t = 0; t < 60; ++t) {
    rule.temperature = keys[t].temperature;
    const Tensor row = logits.tensor().slice_rows(static_cast<int64_t>(t), 1);
    const int32_t expected = draw(host, work, row, limit, rule, {}, Rng(7, t));
    EXPECT_TRUE(ids[t] == expected || ids[t] == -1) << t;
    undecided += ids[t] < 0;
  }
  EXPECT_LE(undecided, 1);
}

TEST_F(CudaFused, DrawsTooCloseToTell) {
  Host logits(DType::f32, 2, 1000);
  logits.fill(-HUGE_VALF);
  const Rng noise(3);
  float* row = logits.tensor().f32();  // the second arrives as late as the first
  row[10] = 1, row[700] = 1 + std::log(static_cast<float>(std::log1p(-noise_uniform(noise.key(), 700)) /
                                                          std::log1p(-noise_uniform(noise.key(), 10))));
  std::memcpy(logits.tensor().at(1), row, 4000);
  SharedVector<DrawKey> keys = {DrawKey::of(1, noise), DrawKey::of(0, noise)};
  SharedVector<int32_t> ids(2, -5);
  draw_rows(s(), Tensor(ids.data(), DType::i32, {2}), logits, Tensor(keys.data(), DType::i32, {2, 3}), 1000);
  s().synchronize();
  EXPECT_EQ(ids[0], -1);
  EXPECT_EQ(ids[1], row[10] >= row[700] ? 10 : 700);
}

}  // namespace
}  // namespace sluice::test
