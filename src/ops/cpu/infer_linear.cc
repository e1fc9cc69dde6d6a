#include <algorithm>

#include "ops/cpu/infer_block.h"
#include "ops/infer.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kRows = 256;

/// Outputs of one task: a multiple of every tile's width, few enough for their weights to stay in the L2 cache.
int64_t outputs_per_task(int64_t depth) { return depth > 3072 ? 24 : 48; }

struct Range {
  int64_t begin, count;
};

/// The given rows and outputs of y (=|+=) x w', on one thread.
void block(Stream& s, int thread, const Tensor& y, const Tensor& x, const Matrix& w, Range rows, Range outs, Out out) {
  const size_t scratch = infer_rows_scratch(w, outs.count);
  const InferWeights weights = infer_rows(w, outs.begin, outs.count, scratch ? s.scratch(thread, scratch) : nullptr);
  infer_dot({static_cast<float*>(y.at(rows.begin, outs.begin)), y.ld, static_cast<const float*>(x.at(rows.begin)), x.ld,
             rows.count, out == Out::add},
            weights, outs.count, w.cols);
}

}  // namespace

void infer_linear(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out) {
  const int64_t T = x.rows(), width = outputs_per_task(w.cols), columns = (w.rows + width - 1) / width;
  s.pool().run((T + kRows - 1) / kRows * columns, [&](int64_t task, int thread) {
    const int64_t row = task / columns * kRows, col = task % columns * width;
    block(s, thread, y, x, w, {row, std::min(kRows, T - row)}, {col, std::min(width, w.rows - col)}, out);
  });
}

void infer_grouped_linear(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets_E1, ExpertBank w) {
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  const int64_t width = outputs_per_task(w[0].cols), columns = (w[0].rows + width - 1) / width;
  s.pool().run(static_cast<int64_t>(w.size()) * columns, [&](int64_t task, int thread) {
    const int64_t e = task / columns, col = task % columns * width, rows = offset[e + 1] - offset[e];
    const Matrix& m = w[static_cast<size_t>(e)];
    if (rows > 0) block(s, thread, y, x, m, {offset[e], rows}, {col, std::min(width, m.rows - col)}, Out::set);
  });
}

}  // namespace sluice::cpu
