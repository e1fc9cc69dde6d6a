// Inference ops: values against sums in double, and the same bits for every number of rows, threads and place in
// memory.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/fp8.h"
#include "base/rng.h"
#include "fixture.h"
#include "ops/infer.h"
#include "ops/quant.h"

namespace sluice::test {
namespace {

struct Rows {
  std::vector<float> data;
  int64_t rows, cols;
  Rows(int64_t rows_, int64_t cols_, float fill = std::nanf("")) : rows(rows_), cols(cols_) {
    data.assign(static_cast<size_t>(rows * cols), fill);
  }
  Tensor tensor() { return Tensor(data.data(), {rows, cols}); }
  float operator()(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * cols + j)]; }
};

Rows random_rows(int64_t rows, int64_t cols, uint64_t seed) {
  Rows r(rows, cols);
  Rng rng(seed);
  for (float& v : r.data) v = static_cast<float>(rng.normal());
  return r;
}

/// A weight matrix with its memory and its exact values.
struct Weights {
  Matrix matrix;
  std::vector<char> bytes;
  std::vector<float> scales;
  Rows values;
  Weights(Format format, int64_t rows, int64_t cols, uint64_t seed) : values(random_rows(rows, cols, seed)) {
    matrix.format = format;
    matrix.rows = rows;
    matrix.cols = cols;
    bytes.resize(matrix.tensor().bytes());
    scales.resize(static_cast<size_t>(matrix.scale_rows() * matrix.scale_cols()));
    matrix.data = bytes.data();
    matrix.scales = scales.data();
    if (format == Format::f32) {
      std::memcpy(bytes.data(), values.data.data(), bytes.size());
    } else if (format == Format::bf16) {
      for (size_t i = 0; i < values.data.size(); ++i) {
        const bf16 rounded(values.data[i]);
        std::memcpy(bytes.data() + 2 * i, &rounded, 2);
        values.data[i] = static_cast<float>(rounded);
      }
    } else {
      quantize_weight(stream(1), matrix, values.tensor(), false);
      dequantize_weight(stream(1), values.tensor(), matrix);
    }
  }
};

constexpr Format kFormats[] = {Format::f32, Format::bf16, Format::fp8_128};
constexpr int64_t kRowCounts[] = {1, 2, 3, 8, 33, 512};

/// Queries of `T` tokens at the end of a sequence of `keys` positions, on shuffled pages.
struct AttentionCase {
  LatentShape a{3, 6, 4, 5, 20, 0.3f};
  int64_t keys;
  std::vector<int32_t> pages;
  Rows cache, qa;
  explicit AttentionCase(int64_t keys_, int64_t heads = 3)
      : keys(keys_), cache(((keys_ + 63) / 64 + 3) * 64, 24), qa(0, 0) {
    a.heads = heads;
    pages.resize(static_cast<size_t>((keys + 63) / 64));
    std::iota(pages.rbegin(), pages.rend(), 2);
    const Rows rows = random_rows(keys, 24, 6);
    for (int64_t p = 0; p < keys; ++p) std::copy_n(&rows.data[static_cast<size_t>(p * 24)], 24, row(p));
    qa = random_rows(keys, heads * 24, 7);
  }
  float* row(int64_t p) {
    return static_cast<float*>(cache.tensor().at(pages[static_cast<size_t>(p / 64)] * 64 + p % 64));
  }
  /// u of the tokens at positions [begin, begin + T).
  Rows run(Stream& s, int64_t begin, int64_t T) {
    Rows u(T, a.heads * a.latent);
    std::vector<int32_t> position(static_cast<size_t>(T)), sequence(static_cast<size_t>(T), 1);
    std::iota(position.begin(), position.end(), static_cast<int32_t>(begin));
    std::vector<int32_t> table(2 * pages.size(), -1);  // another sequence, then this one
    std::copy(pages.begin(), pages.end(), table.begin() + static_cast<int64_t>(pages.size()));
    const CachePlaces places{Tensor(position.data(), DType::i32, {T}), Tensor(sequence.data(), DType::i32, {T}),
                             Tensor(table.data(), DType::i32, {2, static_cast<int64_t>(pages.size())})};
    infer_attention(s, u.tensor(), qa.tensor().slice_rows(begin, T), cache.tensor(), places, a);
    return u;
  }
  double expected(int64_t t, int64_t h, int64_t c) {
    double sum = 0, total = 0;
    for (int64_t p = 0; p <= t; ++p) {
      double score = 0;
      for (int64_t i = 0; i < 24; ++i) score += static_cast<double>(qa(t, h * 24 + i)) * row(p)[i];
      const double e = std::exp(score * a.scale);
      total += e;
      sum += e * row(p)[c];
    }
    return sum / total;
  }
};

TEST(InferOps, AttentionValuesAcrossPagesAndSplits) {
  AttentionCase k(1300, 11);
  for (const int64_t t : {0, 1, 62, 63, 64, 511, 512, 700, 1299}) {
    const Rows u = k.run(stream(1), t, 1);
    for (int64_t h = 0; h < 11; ++h)
      for (int64_t c = 0; c < 20; ++c) ASSERT_NEAR(u(0, h * 20 + c), k.expected(t, h, c), 2e-5) << t;
  }
}

TEST(InferOps, AttentionIsRowInvariant) {
  AttentionCase k(1100);
  const Rows all = k.run(stream(1), 0, 1100);
  for (const int threads : {1, 2, 5})  // few tokens: splits become tasks
    for (const int64_t T : kRowCounts)
      for (const int64_t begin : {int64_t{0}, 1100 - T}) {
        const Rows u = k.run(stream(threads), begin, T);
        ASSERT_EQ(0,
                  std::memcmp(u.data.data(), &all.data[static_cast<size_t>(begin * 60)], u.data.size() * sizeof(float)))
            << T << " tokens from " << begin << ", " << threads << " threads";
      }
}

TEST(InferOps, AttentionDoesNotReadBeyondItsPosition) {
  AttentionCase k(130);
  const Rows before = k.run(stream(1), 70, 3);
  for (int64_t p = 73; p < 130; ++p) std::fill_n(k.row(p), 24, std::nanf(""));  // what rejected drafts leave behind
  EXPECT_TRUE(same_bits(k.run(stream(1), 70, 3).data, before.data));
}

/// A prompt's attention with expanded keys: 4 heads, nope 6, rope 4, value 5, latent 20.
struct PromptCase {
  LatentShape a{4, 6, 4, 5, 20, 0.3f};
  AttentionCase cached;
  Weights kv_b;
  Rows q;
  PromptCase(int64_t keys, Format format) : cached(keys), kv_b(format, 4 * 11, 20, 8), q(random_rows(keys, 40, 9)) {}
  Rows run(Stream& s, int64_t begin, int64_t T) {
    Rows o(T, a.heads * a.value);
    std::vector<int32_t>& pages = cached.pages;
    infer_prompt_attention(s, o.tensor(), q.tensor().slice_rows(begin, T), cached.cache.tensor(),
                           Tensor(pages.data(), DType::i32, {static_cast<int64_t>(pages.size())}), begin, kv_b.matrix,
                           a);
    return o;
  }
  /// o of token t under head h, in double.
  std::vector<double> expected(int64_t t, int64_t h) {
    std::vector<double> sum(5);
    double total = 0;
    for (int64_t p = 0; p <= t; ++p) {
      const float* row = cached.row(p);
      double score = 0;
      for (int64_t n = 0; n < 10; ++n) {
        double key = n < 6 ? 0 : row[20 + n - 6];
        for (int64_t c = 0; n < 6 && c < 20; ++c) key += static_cast<double>(kv_b.values(h * 11 + n, c)) * row[c];
        score += key * q(t, h * 10 + n);
      }
      const double e = std::exp(score * a.scale);
      total += e;
      for (int64_t v = 0; v < 5; ++v)
        for (int64_t c = 0; c < 20; ++c)
          sum[static_cast<size_t>(v)] += e * static_cast<double>(kv_b.values(h * 11 + 6 + v, c)) * row[c];
    }
    for (double& x : sum) x /= total;
    return sum;
  }
};

TEST(InferOps, PromptAttentionValues) {
  for (const Format format : kFormats) {
    PromptCase k(150, format);
    const Rows o = k.run(stream(2), 0, 150);
    for (const int64_t t : {0, 1, 31, 32, 63, 64, 100, 149})
      for (int64_t h = 0; h < 4; ++h)
        for (int64_t v = 0; v < 5; ++v)
          ASSERT_NEAR(o(t, h * 5 + v), k.expected(t, h)[static_cast<size_t>(v)], 2e-5) << t << " " << h;
  }
}

TEST(InferOps, PromptAttentionIsRowInvariant) {
  PromptCase k(600, Format::bf16);
  const Rows all = k.run(stream(1), 0, 600);
  for (const int threads : {1, 2, 5})
    for (const int64_t T : kRowCounts)
      for (const int64_t begin : {int64_t{0}, (600 - T) / 2, 600 - T}) {
        const Rows o = k.run(stream(threads), begin, T);
        ASSERT_EQ(0,
                  std::memcmp(o.data.data(), &all.data[static_cast<size_t>(begin * 20)], o.data.size() * sizeof(float)))
            << T << " tokens from " << begin << ", " << threads << " threads";
      }
}

TEST(InferOps, PromptAttentionDoesNotReadBeyondItsTokens) {
  PromptCase k(130, Format::f32);
  const Rows before = k.run(stream(1), 70, 3);
  for (int64_t p = 73; p < 130; ++p) std::fill_n(k.cached.row(p), 24, std::nanf(""));
  EXPECT_TRUE(same_bits(k.run(stream(1), 70, 3).data, before.data));
}

TEST(InferOps, AbsorbAndExpand) {
  const LatentShape a{3, 6, 4, 5, 140, 1.0f};
  for (const Format format : kFormats) {
    Weights kv_b(format, 3 * 11, 140, 8);
    Rows q = random_rows(33, 3 * 10, 9), u = random_rows(33, 3 * 140, 10);
    Rows qa(33, 3 * 144), o(33, 15);
    infer_absorb_query(stream(2), qa.tensor(), q.tensor(), kv_b.matrix, a);
    infer_expand_value(stream(2), o.tensor(), u.tensor(), kv_b.matrix, a);
    for (int64_t t = 0; t < 33; ++t)
      for (int64_t h = 0; h < 3; ++h) {
        for (int64_t c = 0; c < 140; ++c) {
          double sum = 0;
          for (int64_t n = 0; n < 6; ++n) sum += static_cast<double>(q(t, h * 10 + n)) * kv_b.values(h * 11 + n, c);
          ASSERT_NEAR(qa(t, h * 144 + c), sum, 1e-5);
        }
        for (int64_t r = 0; r < 4; ++r) ASSERT_EQ(qa(t, h * 144 + 140 + r), q(t, h * 10 + 6 + r));
        for (int64_t v = 0; v < 5; ++v) {
          double sum = 0;
          for (int64_t c = 0; c < 140; ++c)
            sum += static_cast<double>(u(t, h * 140 + c)) * kv_b.values(h * 11 + 6 + v, c);
          ASSERT_NEAR(o(t, h * 5 + v), sum, 1e-4);
        }
      }
    for (const int64_t M : {1, 2, 3, 8}) {
      Rows qa_M(M, 3 * 144), o_M(M, 15);
      infer_absorb_query(stream(5), qa_M.tensor(), q.tensor().slice_rows(20, M), kv_b.matrix, a);
      infer_expand_value(stream(5), o_M.tensor(), u.tensor().slice_rows(20, M), kv_b.matrix, a);
      ASSERT_EQ(0, std::memcmp(qa_M.data.data(), qa.tensor().at(20), qa_M.data.size() * sizeof(float)));
      ASSERT_EQ(0, std::memcmp(o_M.data.data(), o.tensor().at(20), o_M.data.size() * sizeof(float)));
    }
  }
}

}  // namespace
}  // namespace sluice::test
