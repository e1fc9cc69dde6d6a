// The two block products of inference on one thread. Each output element is one chain of multiply-adds in ascending
// order of the contraction (per vector lane, lanes added at the end in infer_dot), whatever the blocking.
#pragma once
#include <algorithm>
#include <cstdint>

#include "ops/matrix.h"

namespace sluice::cpu {

/// Blocks of float32 rows: y of `rows` rows `ldy` apart, x of `rows` rows `ldx` apart.
struct InferRows {
  float* y;
  int64_t ldy;
  const float* x;
  int64_t ldx;
  int64_t rows;
  bool add;  // y += instead of y =
};

/// Rows of weights (or cached keys) as they lie in memory: f32 or bf16, `ld` elements apart.
struct InferWeights {
  const void* data;
  int64_t ld;
  Format format;
};

/// y[i, j] (=|+=) sum over k < depth of x[i, k] w[j, k],  j < outs.
void infer_dot(const InferRows& r, const InferWeights& w, int64_t outs, int64_t depth);

/// y[i, j] (=|+=) sum over k < depth of x[i, k] w[k, j],  j < outs.
void infer_axpy(const InferRows& r, const InferWeights& w, int64_t outs, int64_t depth);

/// Rows [begin, begin + rows) of `w` for these products: as they are, or for fp8_128 dequantised into `scratch`
/// (rows * w.cols floats).
InferWeights infer_rows(const Matrix& w, int64_t begin, int64_t rows, float* scratch);

/// Floats of scratch that infer_rows needs.
inline size_t infer_rows_scratch(const Matrix& w, int64_t rows) {
  return w.format == Format::fp8_128 ? static_cast<size_t>(rows * w.cols) : 0;
}

/// Items per task when one takes `work` multiply-adds: tasks below some microseconds are not worth another thread.
inline int64_t infer_grain(int64_t work) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, work)); }

/// One split of keys under one head: turns `n` scores into exp(scale score - largest), returns `largest` (scaled) and
/// the sum of the exponentials.
struct SoftmaxPart {
  float largest, total;
};
SoftmaxPart infer_softmax(float* score, int64_t n, float scale);

/// Merges the sums of a later split, u and part, into those before it: total_u and total.
void infer_merge(float* total_u, SoftmaxPart& total, const float* u, const SoftmaxPart& part, int64_t n);

/// u *= 1 / total.
void infer_finish(float* u, const SoftmaxPart& total, int64_t n);

}  // namespace sluice::cpu
