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

/// Rows `rows` of x times groups `groups` of w, on one thread.
void block(const PackedProduct& p, Range rows, Range groups) {
  const auto& [y, x, w, out] = p;
  const int64_t lanes = packed_target().lanes, bytes = group_bytes(w),
                scale_cols = (w.cols + kScaleCols - 1) / kScaleCols;
  const int64_t stride = static_cast<int64_t>(cpu::prepared_row_bytes(x.cols, x.kind));
  const float* scales = reinterpret_cast<const float*>(w.data + group_count(w.rows) * bytes);
  const auto run = is_block_format(w.format) ? packed_block_groups : packed_plain_groups;
  run({w.data + groups.begin * bytes, groups.count, bytes, w.format, w.cols, scales + groups.begin * scale_cols,
       x.data + rows.begin * stride, stride, rows.count, static_cast<float*>(y.at(rows.begin, groups.begin * lanes)),
       y.ld, std::min(groups.count * lanes, y.cols() - groups.begin * lanes), out == Out::add});
}

/// Groups of one task when each is multiplied with `rows` rows: about kTaskBytes of them, an even number for the tiles
/// of two groups.
int64_t groups_per_task(const PackedMatrix& w, int64_t rows) {
  const int64_t bytes = group_bytes(w) * std::max<int64_t>(1, rows / 2);
  const int64_t groups = (kTaskBytes + bytes / 2) / bytes;
  return groups <= 1 ? 1 : groups + groups % 2;
}

/// How a product is cut into tasks.
struct Cut {
  int64_t groups, each, columns, tasks;
  explicit Cut(const PackedProduct& p)
      : groups(group_count(p.y.cols())),
        each(groups_per_task(p.w, std::min(p.x.rows, kTaskRows))),
        columns((groups + each - 1) / each),
        tasks((p.x.rows + kTaskRows - 1) / kTaskRows * columns) {}
};

void run_task(const PackedProduct& p, int64_t task) {
  const Cut cut(p);
  const int64_t row = task / cut.columns * kTaskRows, group = task % cut.columns * cut.each;
  block(p, {row, std::min(kTaskRows, p.x.rows - row)}, {group, std::min(cut.each, cut.groups - group)});
}

}  // namespace

size_t prepared_row_bytes(int64_t cols, Activations kind) {
  return static_cast<size_t>(kind == Activations::codes ? RoundedRow(cols, packed_target().has_bytes).bytes()
                                                        : (4 * padded_cols(cols) + 63) / 64 * 64);
}

void prepare_rows(Stream& s, const PreparedRows& out, const Tensor& x) {
  const size_t stride = cpu::prepared_row_bytes(x.cols(), out.kind);
  parallel_for(s, x.rows(), std::max<int64_t>(1, 4096 / x.cols()), [&](int64_t i, int64_t end, int) {
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

void packed_linear(Stream& s, std::span<const PackedProduct> products) {
  int32_t* end = reinterpret_cast<int32_t*>(s.shared_scratch(products.size()));  // tasks up to the end of each
  int32_t tasks = 0;
  for (size_t i = 0; i < products.size(); ++i) end[i] = tasks += static_cast<int32_t>(Cut(products[i]).tasks);
  // Threads that take turns read neighbouring weights each, so that what one reads ahead is its own.
  const int64_t streams = s.pool().size(), length = tasks / streams, longer = tasks % streams;
  s.pool().run(tasks, [&](int64_t turn, int) {
    const int64_t stream = turn % streams, task = stream * length + std::min(stream, longer) + turn / streams;
    const auto i = std::upper_bound(end, end + products.size(), static_cast<int32_t>(task)) - end;
    run_task(products[static_cast<size_t>(i)], task - (i > 0 ? end[i - 1] : 0));
  });
}

}  // namespace sluice::cpu
