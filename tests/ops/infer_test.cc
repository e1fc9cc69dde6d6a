// Inference ops: values against sums in double, and the same bits for every number of rows, threads and place in
// memory.
#include "ops/infer.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "op_test.h"
#include "ops/quant.h"

namespace sluice::test {
namespace {

struct Values {
  SharedVector<float> data;
  int64_t rows, cols;
  Values(int64_t rows_, int64_t cols_, float fill = std::nanf("")) : rows(rows_), cols(cols_) {
    data.assign(static_cast<size_t>(rows * cols), fill);
  }
  Tensor tensor() { return Tensor(data.data(), {rows, cols}); }
  float operator()(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * cols + j)]; }
};

Values random_values(int64_t rows, int64_t cols, uint64_t seed) {
  Values r(rows, cols);
  Rng rng(seed);
  for (float& v : r.data) v = static_cast<float>(rng.normal());
  return r;
}

bool same_bits(const Values& a, const Values& b) {
  return a.data.size() == b.data.size() &&
         std::memcmp(a.data.data(), b.data.data(), a.data.size() * sizeof(float)) == 0;
}

Stream& any_stream() { return *tested_streams().front(); }

/// A weight matrix with its memory and its exact values.
struct Weights {
  Matrix matrix;
  SharedVector<char> bytes;
  SharedVector<float> scales;
  Values values;
  Weights(Format format, int64_t rows, int64_t cols, uint64_t seed) : values(random_values(rows, cols, seed)) {
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
  SharedVector<int32_t> pages;
  Values cache, qa;
  explicit AttentionCase(int64_t keys_, int64_t heads = 3)
      : keys(keys_), cache(((keys_ + 63) / 64 + 3) * 64, 24), qa(0, 0) {
    a.heads = heads;
    pages.resize(static_cast<size_t>((keys + 63) / 64));
    std::iota(pages.rbegin(), pages.rend(), 2);
    const Values rows = random_values(keys, 24, 6);
    for (int64_t p = 0; p < keys; ++p) std::copy_n(&rows.data[static_cast<size_t>(p * 24)], 24, row(p));
    qa = random_values(keys, heads * 24, 7);
  }
  float* row(int64_t p) {
    return static_cast<float*>(cache.tensor().at(pages[static_cast<size_t>(p / 64)] * 64 + p % 64));
  }
  /// u of the tokens at positions [begin, begin + T).
  Values run(Stream& s, int64_t begin, int64_t T) {
    Values u(T, a.heads * a.latent);
    SharedVector<int32_t> position(static_cast<size_t>(T)), sequence(static_cast<size_t>(T), 1);
    std::iota(position.begin(), position.end(), static_cast<int32_t>(begin));
    SharedVector<int32_t> table(2 * pages.size(), -1);  // another sequence, then this one
    std::copy(pages.begin(), pages.end(), table.begin() + static_cast<int64_t>(pages.size()));
    const CachePlaces places{Tensor(position.data(), DType::i32, {T}), Tensor(sequence.data(), DType::i32, {T}),
                             Tensor(table.data(), DType::i32, {2, static_cast<int64_t>(pages.size())})};
    infer_attention(s, u.tensor(), qa.tensor().slice_rows(begin, T), cache.tensor(), places, a);
    s.synchronize();
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

TEST_P(FixedOpTest, InferCacheRowsGoToTheirPages) {
  const int64_t T = 5, width = 24;
  const Host x = random(T, width, Rows::strided);
  // Positions 62 to 64 of sequence 1 and 0 to 1 of sequence 0, on pages that are not in order.
  const Host position = i32_vector({62, 63, 64, 0, 1}), sequence = i32_vector({1, 1, 1, 0, 0});
  const Host pages = Host(DType::i32, 2, 2).set(std::vector<int64_t>{2, -1, 3, 0});
  Host cache(DType::f32, 4 * kPageTokens, width);
  run({&cache}, [&](Stream& s) { infer_cache_rows(s, cache, x, {position, sequence, pages}); });
  const int64_t rows[] = {3 * 64 + 62, 3 * 64 + 63, 0, 2 * 64, 2 * 64 + 1};
  Mat<double> got = cache.get(), from = x.get();
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i < width; ++i) {
      EXPECT_EQ(got(rows[t], i), from(t, i)) << t;
      got(rows[t], i) = std::nan("");
    }
  for (double v : got.data) ASSERT_TRUE(std::isnan(v)) << "another row was written";
}

TEST_P(FixedOpTest, InferAttentionValuesAcrossPagesAndSplits) {
  AttentionCase k(1300, 11);
  for (const int64_t t : {0, 1, 62, 63, 64, 511, 512, 700, 1299}) {
    const Values u = k.run(any_stream(), t, 1);
    for (int64_t h = 0; h < 11; ++h)
      for (int64_t c = 0; c < 20; ++c) ASSERT_NEAR(u(0, h * 20 + c), k.expected(t, h, c), 2e-5) << t;
  }
}

TEST_P(FixedOpTest, InferAttentionIsRowInvariant) {
  AttentionCase k(1100);
  const Values all = k.run(any_stream(), 0, 1100);
  for (Stream* s : tested_streams())  // few tokens: splits become tasks
    for (const int64_t T : kRowCounts)
      for (const int64_t begin : {int64_t{0}, 1100 - T}) {
        const Values u = k.run(*s, begin, T);
        ASSERT_EQ(0,
                  std::memcmp(u.data.data(), &all.data[static_cast<size_t>(begin * 60)], u.data.size() * sizeof(float)))
            << T << " tokens from " << begin;
      }
}

TEST_P(FixedOpTest, InferAttentionDoesNotReadBeyondItsPosition) {
  AttentionCase k(130);
  const Values before = k.run(any_stream(), 70, 3);
  for (int64_t p = 73; p < 130; ++p) std::fill_n(k.row(p), 24, std::nanf(""));  // what rejected drafts leave behind
  EXPECT_TRUE(same_bits(k.run(any_stream(), 70, 3), before));
}

/// A prompt's attention with expanded keys: 4 heads, nope 6, rope 4, value 5, latent 20.
struct PromptCase {
  LatentShape a{4, 6, 4, 5, 20, 0.3f};
  AttentionCase cached;
  Weights kv_b;
  Values q;
  PromptCase(int64_t keys, Format format) : cached(keys), kv_b(format, 4 * 11, 20, 8), q(random_values(keys, 40, 9)) {}
  Values run(Stream& s, int64_t begin, int64_t T) {
    Values o(T, a.heads * a.value);
    SharedVector<int32_t>& pages = cached.pages;
    infer_prompt_attention(s, o.tensor(), q.tensor().slice_rows(begin, T), cached.cache.tensor(),
                           Tensor(pages.data(), DType::i32, {static_cast<int64_t>(pages.size())}), begin, kv_b.matrix,
                           a);
    s.synchronize();
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

TEST_P(FixedOpTest, InferPromptAttentionValues) {
  for (const Format format : kFormats) {
    PromptCase k(150, format);
    const Values o = k.run(any_stream(), 0, 150);
    for (const int64_t t : {0, 1, 31, 32, 63, 64, 100, 149})
      for (int64_t h = 0; h < 4; ++h)
        for (int64_t v = 0; v < 5; ++v)
          ASSERT_NEAR(o(t, h * 5 + v), k.expected(t, h)[static_cast<size_t>(v)], 2e-5) << t << " " << h;
  }
}

TEST_P(FixedOpTest, InferPromptAttentionIsRowInvariant) {
  PromptCase k(600, Format::bf16);
  const Values all = k.run(any_stream(), 0, 600);
  for (Stream* s : tested_streams())
    for (const int64_t T : kRowCounts)
      for (const int64_t begin : {int64_t{0}, (600 - T) / 2, 600 - T}) {
        const Values o = k.run(*s, begin, T);
        ASSERT_EQ(0,
                  std::memcmp(o.data.data(), &all.data[static_cast<size_t>(begin * 20)], o.data.size() * sizeof(float)))
            << T << " tokens from " << begin;
      }
}

TEST_P(FixedOpTest, InferPromptAttentionDoesNotReadBeyondItsTokens) {
  PromptCase k(130, Format::f32);
  const Values before = k.run(any_stream(), 70, 3);
  for (int64_t p = 73; p < 130; ++p) std::fill_n(k.cached.row(p), 24, std::nanf(""));
  EXPECT_TRUE(same_bits(k.run(any_stream(), 70, 3), before));
}

TEST_P(FixedOpTest, InferAbsorbAndExpand) {
  const LatentShape a{3, 6, 4, 5, 140, 1.0f};
  for (const Format format : kFormats) {
    Weights kv_b(format, 3 * 11, 140, 8);
    Values q = random_values(33, 3 * 10, 9), u = random_values(33, 3 * 140, 10);
    Values qa(33, 3 * 144), o(33, 15);
    Stream& s = any_stream();
    infer_absorb_query(s, qa.tensor(), q.tensor(), kv_b.matrix, a);
    infer_expand_value(s, o.tensor(), u.tensor(), kv_b.matrix, a);
    s.synchronize();
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
      Stream& last = *tested_streams().back();
      Values qa_M(M, 3 * 144), o_M(M, 15);
      infer_absorb_query(last, qa_M.tensor(), q.tensor().slice_rows(20, M), kv_b.matrix, a);
      infer_expand_value(last, o_M.tensor(), u.tensor().slice_rows(20, M), kv_b.matrix, a);
      last.synchronize();
      ASSERT_EQ(0, std::memcmp(qa_M.data.data(), qa.tensor().at(20), qa_M.data.size() * sizeof(float)));
      ASSERT_EQ(0, std::memcmp(o_M.data.data(), o.tensor().at(20), o_M.data.size() * sizeof(float)));
    }
  }
}

}  // namespace
}  // namespace sluice::test
