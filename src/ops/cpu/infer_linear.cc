#include <algorithm>

#include "ops/cpu/infer_block.h"
#include "ops/infer.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kRows = 256;

/// Outputs of one task: a multiple of every tile's width, few enough for their weights to stay in the L2 cache.
int64_t outputs_per_task(int64_t rows, int64_t depth) {
  const int64_t width = depth > 3072 ? 24 : 48;
  return width * infer_grain(rows * depth * width);
}

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
  const int64_t T = x.rows(), width = outputs_per_task(std::min(T, kRows), w.cols),
                columns = (w.rows + width - 1) / width;
  s.pool().run((T + kRows - 1) / kRows * columns, [&](int64_t task, int thread) {
    const int64_t row = task / columns * kRows, col = task % columns * width;
    block(s, thread, y, x, w, {row, std::min(kRows, T - row)}, {col, std::min(width, w.rows - col)}, out);
  });
}

void infer_grouped_linear(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets_E1, ExpertBank w) {
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  const int64_t E = static_cast<int64_t>(w.size()), width = outputs_per_task(1, w[0].cols);
  const int64_t columns = (w[0].rows + width - 1) / width;
  int32_t* active = reinterpret_cast<int32_t*>(s.shared_scratch(static_cast<size_t>(E)));  // experts that have rows
  int64_t count = 0;
  for (int64_t e = 0; e < E; ++e)
    if (offset[e + 1] > offset[e]) active[count++] = static_cast<int32_t>(e);
  const int64_t rows_each = count ? (offset[E] + count - 1) / count : 0;
  parallel_for(s, count * columns, infer_grain(rows_each * width * w[0].cols),
               [&](int64_t task, int64_t end, int thread) {
                 for (; task < end; ++task) {
                   const int64_t e = active[task / columns], col = task % columns * width;
                   const Matrix& m = w[static_cast<size_t>(e)];
                   block(s, thread, y, x, m, {offset[e], offset[e + 1] - offset[e]},
                         {col, std::min(width, m.rows - col)}, Out::set);
                 }
               });
}

}  // namespace sluice::cpu
