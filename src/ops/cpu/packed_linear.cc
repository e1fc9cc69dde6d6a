#include <algorithm>

#include "ops/cpu/packed_block.h"
#include "ops/cpu/packed_layout.h"

namespace sluice::cpu {
namespace {

/// Bytes of weights that one task reads: enough to be worth a task, few enough to share the work evenly.
constexpr int64_t kTaskBytes = 65536;
/// Rows of x that one task multiplies: a group of weights stays in the L1 cache, these rows in the L2 cache.
constexpr int64_t kTaskRows = 512;

struct Range {
  int64_t begin, count;
};

int64_t group_count(int64_t rows) { return (rows + packed_target().lanes - 1) / packed_target().lanes; }

/// Bytes of a group without the scales of fp8_128, which lie behind all groups.
int64_t group_bytes(const PackedMatrix& w) {
  const int64_t lanes = packed_target().lanes;
  return is_block_format(w.format) ? static_cast<int64_t>(cpu::packed_bytes(w.format, lanes, w.cols))
                                   : plain_group_bytes(w.format, w.cols, lanes);
}

/// The products of rows `rows` of x with groups `groups` of w, on one thread.
void block(const Tensor& y, const PreparedRows& x, const PackedMatrix& w, Range rows, Range groups, Out out) {
  const int64_t lanes = packed_target().lanes, bytes = group_bytes(w),
                scale_cols = (w.cols + kScaleCols - 1) / kScaleCols;
  const int64_t stride = static_cast<int64_t>(cpu::prepared_row_bytes(x.cols, x.kind));
  const float* scales = reinterpret_cast<const float*>(w.data + group_count(w.rows) * bytes);
  const auto run = is_block_format(w.format) ? packed_block_groups : packed_plain_groups;
  run({w.data + groups.begin * bytes, groups.count, bytes, w.format, w.cols, scales + groups.begin * scale_cols,
       x.data + rows.begin * stride, stride, rows.count, static_cast<float*>(y.at(rows.begin, groups.begin * lanes)),
       y.ld, std::min(groups.count * lanes, y.cols() - groups.begin * lanes), out == Out::add});
}

/// Groups of one task when each is multiplied with `rows` rows: about kTaskBytes of them.
int64_t groups_per_task(const PackedMatrix& w, int64_t rows) {
  const int64_t bytes = group_bytes(w) * std::max<int64_t>(1, rows / 2);
  return std::max<int64_t>(1, (kTaskBytes + bytes / 2) / bytes);
}

}  // namespace

size_t prepared_row_bytes(int64_t cols, Activations kind) {
  return static_cast<size_t>(kind == Activations::codes ? RoundedRow(cols, packed_target().has_bytes).bytes()
                                                        : (4 * padded_cols(cols) + 63) / 64 * 64);
}

void prepare_rows(Stream& s, const PreparedRows& out, const Tensor& x) {
  const size_t stride = cpu::prepared_row_bytes(x.cols(), out.kind);
  parallel_for(s, x.rows(), std::max<int64_t>(1, 16384 / x.cols()), [&](int64_t i, int64_t end, int) {
    for (; i < end; ++i) {
      std::byte* row = out.data + static_cast<size_t>(i) * stride;
      const float* from = static_cast<const float*>(x.at(i));
      if (out.kind == Activations::codes) {
        round_row(from, x.cols(), row);
      } else {
        float* copy = reinterpret_cast<float*>(row);
        std::fill(std::copy_n(from, x.cols(), copy), copy + padded_cols(x.cols()), 0.0f);
      }
    }
  });
}

void packed_linear(Stream& s, Tensor y, const PreparedRows& x, const PackedMatrix& w, Out out) {
  const int64_t T = x.rows, all = group_count(y.cols()), each = groups_per_task(w, std::min(T, kTaskRows)),
                columns = (all + each - 1) / each;
  s.pool().run((T + kTaskRows - 1) / kTaskRows * columns, [&](int64_t task, int) {
    const int64_t row = task / columns * kTaskRows, g = task % columns * each;
    block(y, x, w, {row, std::min(kTaskRows, T - row)}, {g, std::min(each, all - g)}, out);
  });
}

void packed_grouped_linear(Stream& s, Tensor y, const PreparedRows& x, const Tensor& offsets_E1,
                           std::span<const PackedMatrix> w) {
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  const size_t E = w.size();
  int32_t* active = reinterpret_cast<int32_t*>(s.shared_scratch(E));  // experts with rows to multiply
  int64_t count = 0, rows = 0;
  for (size_t e = 0; e < E; ++e) {
    if (offset[e + 1] == offset[e] || !w[e].data) continue;
    active[count++] = static_cast<int32_t>(e);
    rows += offset[e + 1] - offset[e];
  }
  if (count == 0) return;
  const PackedMatrix& first = w[static_cast<size_t>(active[0])];
  const int64_t all = group_count(y.cols()), each = groups_per_task(first, (rows + count - 1) / count),
                columns = (all + each - 1) / each;
  s.pool().run(count * columns, [&](int64_t task, int) {
    const size_t e = static_cast<size_t>(active[task / columns]);
    const int64_t g = task % columns * each;
    block(y, x, w[e], {offset[e], offset[e + 1] - offset[e]}, {g, std::min(each, all - g)}, Out::set);
  });
}

}  // namespace sluice::cpu
