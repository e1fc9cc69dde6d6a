#include "train/batch.h"

#include <algorithm>

#include "base/transfer.h"

namespace sluice {
namespace {

Tensor ints(Stream& s, Arena& a, std::span<const int32_t> values) {
  const int64_t n = static_cast<int64_t>(values.size());
  const Tensor t = a.alloc(DType::i32, {n});
  upload(s, t, Tensor(const_cast<int32_t*>(values.data()), DType::i32, {n}));
  return t;
}

/// Rows [begin, begin + rows) of the first `width` columns.
std::vector<int32_t> columns(std::span<const int32_t> all, int64_t cols, int64_t begin, int64_t rows, int64_t width) {
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(rows * width));
  for (int64_t r = begin; r < begin + rows; ++r)
    out.insert(out.end(), all.begin() + r * cols, all.begin() + r * cols + width);
  return out;
}

}  // namespace

ModelBatch device_batch(Stream& s, Arena& a, const Batch& batch, int64_t begin, int64_t rows, int64_t mtp_modules) {
  ModelBatch b;
  b.batch = rows;
  b.tokens = batch.cols - 1;  // the last token is a target only
  const auto part = [&](std::span<const int32_t> all, int64_t width) {
    return columns(all, batch.cols, begin, rows, width);
  };
  b.ids_T = ints(s, a, part(batch.ids, b.tokens));
  const std::vector<int32_t> first = part(batch.first, b.tokens);
  if (std::any_of(first.begin(), first.end(), [](int32_t f) { return f != 0; })) b.first_T = ints(s, a, first);
  std::vector<int32_t> targets(batch.ids.size());
  fill_targets(batch, 1, targets);
  b.target_T = ints(s, a, part(targets, b.tokens));
  for (int64_t k = 0; k < mtp_modules; ++k) {
    fill_targets(batch, k + 2, targets);
    b.mtp_target.push_back(ints(s, a, part(targets, b.tokens - 1 - k)));
  }
  return b;
}

int64_t count_targets(const Batch& batch) {
  std::vector<int32_t> targets(batch.ids.size());
  fill_targets(batch, 1, targets);
  return std::count_if(targets.begin(), targets.end(), [](int32_t t) { return t >= 0; });
}

}  // namespace sluice
