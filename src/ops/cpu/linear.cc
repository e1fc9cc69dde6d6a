#include "ops/linear.h"

#include "ops/cpu/convert.h"
#include "ops/cpu/gemm_f32.h"
#include "ops/cpu/linear_fp8.h"
#include "ops/elementwise.h"

// One product = a list of output blocks, each one gemm_f32 call on one thread. The cut depends on the shapes alone.
namespace sluice::cpu {
namespace {

constexpr int64_t kRowBlock = 256;

/// Width of an output block: narrow where there are few row blocks to deal out.
int64_t column_block(int64_t rows, int64_t cols) {
  const int64_t most = rows > kRowBlock ? 1024 : 256;
  if (rows > kRowBlock && cols <= most) return cols;
  const int64_t pieces = std::max<int64_t>((cols + most - 1) / most, 2);
  return std::max<int64_t>(((cols + pieces - 1) / pieces + 15) / 16 * 16, 16);
}

/// y (=|+=) op(a) op(b) with everything converted to float32 as needed.
void block_product(Stream& s, int thread, bool trans_a, bool trans_b, Tensor y, const Tensor& a, const Tensor& b,
                   Out out) {
  const int64_t k = trans_a ? a.rows() : a.cols();
  const int64_t na = f32_scratch(a), nb = f32_scratch(b), ny = f32_scratch(y);
  float* scratch = na + nb + ny ? s.scratch(thread, static_cast<size_t>(na + nb + ny)) : nullptr;
  const Block fa = as_f32(a, scratch), fb = as_f32(b, scratch + na);
  if (y.dtype == DType::f32) {
    gemm_f32({y.rows(), y.cols(), k}, {fa.data, fa.ld, trans_a}, {fb.data, fb.ld, trans_b},
             out == Out::add ? 1.0f : 0.0f, static_cast<float*>(y.data), y.ld);
    return;
  }
  float* fy = scratch + na + nb;
  gemm_f32({y.rows(), y.cols(), k}, {fa.data, fa.ld, trans_a}, {fb.data, fb.ld, trans_b}, 0.0f, fy, y.cols());
  store_f32(y, fy, out);
}

/// Calls fn(row, rows, col, cols, thread) for every output block of a (T, N) product.
template <class Fn>
void for_each_block(Stream& s, int64_t T, int64_t N, Fn&& fn) {
  const int64_t width = column_block(T, N), columns = (N + width - 1) / width;
  s.pool().run((T + kRowBlock - 1) / kRowBlock * columns, [&](int64_t task, int thread) {
    const int64_t row = task / columns * kRowBlock, col = task % columns * width;
    fn(row, std::min(kRowBlock, T - row), col, std::min(width, N - col), thread);
  });
}

/// Calls fn(expert, row, rows, thread) for the row blocks of every expert.
template <class Fn>
void for_each_expert_block(Stream& s, const Tensor& offsets, int64_t experts, Fn&& fn) {
  const int32_t* offset = offsets.ptr<int32_t>();
  const int64_t most = (offset[experts] + kRowBlock - 1) / kRowBlock + experts;
  s.pool().run(most, [&](int64_t task, int thread) {
    for (int64_t e = 0; e < experts; ++e) {
      const int64_t rows = offset[e + 1] - offset[e], blocks = (rows + kRowBlock - 1) / kRowBlock;
      if (task < blocks)
        return fn(e, offset[e] + task * kRowBlock, std::min(kRowBlock, rows - task * kRowBlock), thread);
      task -= blocks;
    }
  });
}

/// Calls fn(expert, row, rows) for every expert that has rows, one after the other.
template <class Fn>
void for_each_expert(const Tensor& offsets, int64_t experts, Fn&& fn) {
  const int32_t* offset = offsets.ptr<int32_t>();
  for (int64_t e = 0; e < experts; ++e)
    if (offset[e + 1] > offset[e]) fn(e, offset[e], offset[e + 1] - offset[e]);
}

}  // namespace

void linear_forward(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out) {
  if (w.format == Format::fp8_128) return fp8_linear_forward(s, y, x, w, out);
  for_each_block(s, x.rows(), w.rows, [&](int64_t row, int64_t rows, int64_t col, int64_t cols, int thread) {
    block_product(s, thread, false, true, y.slice_rows(row, rows).slice_cols(col, cols), x.slice_rows(row, rows),
                  w.tensor().slice_rows(col, cols), out);
  });
}

void linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Matrix& w, Out out) {
  if (w.format == Format::fp8_128) return fp8_linear_backward_input(s, dx, dy, w, out);
  for_each_block(s, dy.rows(), w.cols, [&](int64_t row, int64_t rows, int64_t col, int64_t cols, int thread) {
    block_product(s, thread, false, false, dx.slice_rows(row, rows).slice_cols(col, cols), dy.slice_rows(row, rows),
                  w.tensor().slice_cols(col, cols), out);
  });
}

void linear_backward_weight(Stream& s, const Matrix& dw, const Tensor& dy, const Tensor& x, Format format, Out out) {
  if (out == Out::set) cpu::zero(s, dw.tensor());
  if (format == Format::fp8_128) return fp8_linear_backward_weight(s, dw, dy, x);
  for_each_block(s, dw.rows, dw.cols, [&](int64_t row, int64_t rows, int64_t col, int64_t cols, int thread) {
    block_product(s, thread, true, false, dw.tensor().slice_rows(row, rows).slice_cols(col, cols),
                  dy.slice_cols(row, rows), x.slice_cols(col, cols), Out::add);
  });
}

void grouped_linear_forward(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets, ExpertBank w, Out out) {
  const int64_t E = static_cast<int64_t>(w.size());
  if (w[0].format == Format::fp8_128) {
    for_each_expert(offsets, E, [&](int64_t e, int64_t row, int64_t rows) {
      fp8_linear_forward(s, y.slice_rows(row, rows), x.slice_rows(row, rows), w[static_cast<size_t>(e)], out);
    });
    return;
  }
  for_each_expert_block(s, offsets, E, [&](int64_t e, int64_t row, int64_t rows, int thread) {
    block_product(s, thread, false, true, y.slice_rows(row, rows), x.slice_rows(row, rows),
                  w[static_cast<size_t>(e)].tensor(), out);
  });
}

void grouped_linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& offsets, ExpertBank w,
                                   Out out) {
  const int64_t E = static_cast<int64_t>(w.size());
  if (w[0].format == Format::fp8_128) {
    for_each_expert(offsets, E, [&](int64_t e, int64_t row, int64_t rows) {
      fp8_linear_backward_input(s, dx.slice_rows(row, rows), dy.slice_rows(row, rows), w[static_cast<size_t>(e)], out);
    });
    return;
  }
  for_each_expert_block(s, offsets, E, [&](int64_t e, int64_t row, int64_t rows, int thread) {
    block_product(s, thread, false, false, dx.slice_rows(row, rows), dy.slice_rows(row, rows),
                  w[static_cast<size_t>(e)].tensor(), out);
  });
}

void grouped_linear_backward_weight(Stream& s, ExpertBank dw, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                    Format format, Out out) {
  const int64_t E = static_cast<int64_t>(dw.size());
  for (const Matrix& d : dw)
    if (out == Out::set) cpu::zero(s, d.tensor());
  if (format == Format::fp8_128) {
    for_each_expert(offsets, E, [&](int64_t e, int64_t row, int64_t rows) {
      fp8_linear_backward_weight(s, dw[static_cast<size_t>(e)], dy.slice_rows(row, rows), x.slice_rows(row, rows));
    });
    return;
  }
  const int32_t* offset = offsets.ptr<int32_t>();
  const int64_t pieces = (dw[0].rows + kRowBlock - 1) / kRowBlock;
  s.pool().run(E * pieces, [&](int64_t task, int thread) {
    const int64_t e = task / pieces, n = task % pieces * kRowBlock, rows = offset[e + 1] - offset[e];
    if (rows == 0) return;
    const Matrix& d = dw[static_cast<size_t>(e)];
    const int64_t width = std::min(kRowBlock, d.rows - n);
    block_product(s, thread, true, false, d.tensor().slice_rows(n, width),
                  dy.slice_rows(offset[e], rows).slice_cols(n, width), x.slice_rows(offset[e], rows), Out::add);
  });
}

}  // namespace sluice::cpu
