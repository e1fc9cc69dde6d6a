// Attention over a latent cache of bf16, which GPUs alone have: values against sums in double over the rounded cache
// and queries, and the same bits for every number of rows.
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/config.h"
#include "op_test.h"
#include "ops/infer.h"

namespace sluice::test {
namespace {

/// Probabilities are rounded to bf16: of values of about 1.
constexpr double kTolerance = 1e-2;

double rounded(double v) { return static_cast<double>(static_cast<float>(bf16(static_cast<float>(v)))); }

/// One sequence on shuffled pages, the second of a table of two, with a query for every position.
struct RoundedCase {
  LatentShape a;
  int64_t keys;
  SharedVector<int32_t> table;  // (2, pages)
  Host x, cache, qa;            // the rows, in order and in the cache

  RoundedCase(Stream& s, const LatentShape& shape, int64_t keys_)
      : a(shape),
        keys(keys_),
        table(static_cast<size_t>(2 * pages()), -1),
        x(DType::f32, keys_, shape.row()),
        cache(DType::bf16, (pages() + 3) * kPageTokens, shape.row()),
        qa(DType::f32, keys_, shape.heads * shape.row()) {
    Rng rng(5);
    x = random_host(rng, DType::f32, keys, a.row());
    qa = random_host(rng, DType::f32, keys, a.heads * a.row());
    std::iota(table.rbegin(), table.rbegin() + pages(), 2);
    SharedVector<int32_t> position = positions(0, keys), sequence(static_cast<size_t>(keys), 1);
    infer_cache_rows(s, cache, x, places(position, sequence));
    s.synchronize();
  }

  int64_t pages() const { return (keys + kPageTokens - 1) / kPageTokens; }
  static SharedVector<int32_t> positions(int64_t begin, int64_t T) {
    SharedVector<int32_t> p(static_cast<size_t>(T));
    std::iota(p.begin(), p.end(), static_cast<int32_t>(begin));
    return p;
  }
  CachePlaces places(SharedVector<int32_t>& position, SharedVector<int32_t>& sequence) {
    const int64_t T = static_cast<int64_t>(position.size());
    return {Tensor(position.data(), DType::i32, {T}), Tensor(sequence.data(), DType::i32, {T}),
            Tensor(table.data(), DType::i32, {2, pages()})};
  }
  Host run(Stream& s, int64_t begin, int64_t T) {
    Host u(DType::f32, T, a.heads * a.latent);
    SharedVector<int32_t> position = positions(begin, T), sequence(static_cast<size_t>(T), 1);
    infer_attention(s, u, qa.tensor().slice_rows(begin, T), cache, places(position, sequence), a);
    s.synchronize();
    return u;
  }
  /// All of row t and head h.
  std::vector<double> expected(const Mat<double>& rows, const Mat<double>& queries, int64_t t, int64_t h) const {
    std::vector<double> sum(static_cast<size_t>(a.latent));
    double total = 0;
    for (int64_t p = 0; p <= t; ++p) {
      double score = 0;
      for (int64_t i = 0; i < a.row(); ++i) score += rounded(queries(t, h * a.row() + i)) * rounded(rows(p, i));
      const double e = std::exp(score * static_cast<double>(a.scale));
      total += e;
      for (int64_t c = 0; c < a.latent; ++c) sum[static_cast<size_t>(c)] += e * rounded(rows(p, c));
    }
    for (double& v : sum) v /= total;
    return sum;
  }
};

/// Odd sizes; those of the kernels; more heads than a block takes, in both kinds of kernels; too large for tensor
/// cores.
const LatentShape kShapes[] = {{3, 6, 4, 5, 20, 0.3f},
                               {16, 128, 64, 128, 512, 0.05f},
                               {70, 16, 64, 16, 512, 0.05f},
                               {21, 16, 16, 16, 136, 0.1f},
                               {2, 16, 72, 16, 520, 0.05f}};
/// Splits grow with the position.
const LatentShape kLongShape = {2, 16, 64, 16, 512, 0.05f};
const int64_t kLongRows[] = {1023, 1024, 2047, 2048, 3071, 3072, 4199};

class CudaRoundedCache : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "no GPU";
    tested_device() = Device::Kind::cuda;
  }
  void TearDown() override { tested_device() = Device::Kind::cpu; }
};

TEST_F(CudaRoundedCache, Values) {
  Stream& s = *tested_streams().front();
  for (const LatentShape& shape : kShapes) {
    RoundedCase k(s, shape, 600);
    const Mat<double> rows = k.x.get(), queries = k.qa.get();
    for (const int64_t t : {0, 1, 15, 63, 64, 255, 256, 300, 599}) {
      const Mat<double> u = k.run(s, t, 1).get();
      for (int64_t h = 0; h < shape.heads; ++h) {
        const std::vector<double> expected = k.expected(rows, queries, t, h);
        for (int64_t c = 0; c < shape.latent; ++c)
          ASSERT_NEAR(u(0, h * shape.latent + c), expected[static_cast<size_t>(c)], kTolerance)
              << shape.latent << ": " << t << " " << h << " " << c;
      }
    }
  }
}

TEST_F(CudaRoundedCache, RowsDoNotDependOnEachOther) {
  Stream& s = *tested_streams().front();
  for (const LatentShape& shape : kShapes) {
    RoundedCase k(s, shape, 600);
    const Host all = k.run(s, 0, 600);
    for (const int64_t T : {1, 2, 33, 512})
      for (const int64_t begin : {int64_t{0}, 600 - T}) {
        const Host u = k.run(s, begin, T);
        ASSERT_EQ(0, std::memcmp(u.bytes().data(), all.tensor().at(begin), u.bytes().size()))
            << shape.latent << ": " << T << " rows from " << begin;
      }
  }
}

TEST_F(CudaRoundedCache, LongRows) {
  Stream& s = *tested_streams().front();
  RoundedCase k(s, kLongShape, 4200);
  const Mat<double> rows = k.x.get(), queries = k.qa.get();
  const Host all = k.run(s, 0, 4200);
  for (const int64_t t : kLongRows) {
    const Host one = k.run(s, t, 1);
    EXPECT_EQ(0, std::memcmp(one.bytes().data(), all.tensor().at(t), one.bytes().size())) << t;
    const Mat<double> u = one.get();
    for (int64_t h = 0; h < kLongShape.heads; ++h) {
      const std::vector<double> expected = k.expected(rows, queries, t, h);
      for (int64_t c = 0; c < kLongShape.latent; ++c)
        ASSERT_NEAR(u(0, h * kLongShape.latent + c), expected[static_cast<size_t>(c)], kTolerance) << t << " " << c;
    }
  }
}

TEST_F(CudaRoundedCache, WhatLiesBeyondIsNotRead) {
  Stream& s = *tested_streams().front();
  for (const LatentShape& shape : kShapes) {
    RoundedCase k(s, shape, 130);
    const Host before = k.run(s, 70, 3);
    for (int64_t p = 73; p < 130; ++p) {
      const int64_t row = k.table[static_cast<size_t>(k.pages() + p / kPageTokens)] * kPageTokens + p % kPageTokens;
      std::memset(k.cache.tensor().at(row), 0xff, static_cast<size_t>(shape.row()) * 2);
    }
    EXPECT_TRUE(k.run(s, 70, 3).bytes() == before.bytes());
  }
}

/// Prompt rows over the same cache, with kv_b of bf16.
struct RoundedPrompt {
  RoundedCase cached;
  Host kv_b, q;
  RoundedPrompt(Stream& s, const LatentShape& a, int64_t keys)
      : cached(s, a, keys),
        kv_b(DType::bf16, a.heads * (a.nope + a.value), a.latent),
        q(DType::f32, keys, a.heads * (a.nope + a.rope)) {
    Rng rng(7);
    kv_b = random_host(rng, DType::bf16, kv_b.rows(), kv_b.cols(), Rows::packed, 1 / std::sqrt(a.latent));
    q = random_host(rng, DType::f32, q.rows(), q.cols());
  }
  Host run(Stream& s, int64_t begin, int64_t T) {
    const LatentShape& a = cached.a;
    Host o(DType::f32, T, a.heads * a.value);
    infer_prompt_attention(s, o, q.tensor().slice_rows(begin, T), cached.cache,
                           Tensor(cached.table.data() + cached.pages(), DType::i32, {cached.pages()}), begin,
                           as_matrix(kv_b.tensor()), a);
    s.synchronize();
    return o;
  }
};

TEST_F(CudaRoundedCache, PromptValues) {
  Stream& s = *tested_streams().front();
  for (const LatentShape& a : kShapes) {
    RoundedPrompt k(s, a, 300);
    const Mat<double> rows = k.cached.x.get(), w = k.kv_b.get(), q = k.q.get(), o = k.run(s, 0, 300).get();
    const auto expanded = [&](int64_t row, int64_t p) {
      double sum = 0;
      for (int64_t c = 0; c < a.latent; ++c) sum += w(row, c) * rounded(rows(p, c));
      return sum;
    };
    for (const int64_t h : {int64_t{0}, a.heads - 1}) {
      const int64_t first = h * (a.nope + a.value), width = a.nope + a.rope;
      Mat<double> key(300, width), value(300, a.value);
      for (int64_t p = 0; p < 300; ++p) {
        for (int64_t i = 0; i < a.nope; ++i) key(p, i) = expanded(first + i, p);
        for (int64_t i = 0; i < a.rope; ++i) key(p, a.nope + i) = rounded(rows(p, a.latent + i));
        for (int64_t i = 0; i < a.value; ++i) value(p, i) = expanded(first + a.nope + i, p);
      }
      for (const int64_t t : {0, 1, 63, 64, 200, 299}) {
        std::vector<double> sum(static_cast<size_t>(a.value));
        double total = 0;
        for (int64_t p = 0; p <= t; ++p) {
          double score = 0;
          for (int64_t i = 0; i < width; ++i) score += q(t, h * width + i) * key(p, i);
          const double e = std::exp(score * static_cast<double>(a.scale));
          total += e;
          for (int64_t i = 0; i < a.value; ++i) sum[static_cast<size_t>(i)] += e * value(p, i);
        }
        for (int64_t i = 0; i < a.value; ++i)  // keys, queries and values are rounded, too
          ASSERT_NEAR(o(t, h * a.value + i), sum[static_cast<size_t>(i)] / total, 4 * kTolerance)
              << a.latent << " " << t;
      }
    }
  }
}

TEST_F(CudaRoundedCache, PromptRowsDoNotDependOnEachOther) {
  Stream& s = *tested_streams().front();
  for (const LatentShape& a : kShapes) {
    RoundedPrompt k(s, a, 300);
    const Host all = k.run(s, 0, 300);
    for (const int64_t T : {1, 2, 33, 100})
      for (const int64_t begin : {int64_t{0}, int64_t{77}, 300 - T}) {
        const Host o = k.run(s, begin, T);
        ASSERT_EQ(0, std::memcmp(o.bytes().data(), all.tensor().at(begin), o.bytes().size()))
            << a.latent << ": " << T << " rows from " << begin;
      }
  }
}

}  // namespace
}  // namespace sluice::test
