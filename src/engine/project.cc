#include "engine/project.h"

#include <algorithm>
#include <new>

#include "ops/block_format.h"

namespace sluice {
namespace {

const PreparedRows& rows_for(const InferInput& x, const Matrix& w) {
  return activations_of(w.format) == Activations::codes ? x.codes : x.floats;
}

}  // namespace

InferInput infer_input(Stream& s, Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights) {
  InferInput input{x, {}, {}};
  for (const Matrix* w : weights) {
    const Activations kind = activations_of(w->format);
    PreparedRows& rows = kind == Activations::codes ? input.codes : input.floats;
    if (rows.cols > 0) continue;
    const Tensor bytes = a.alloc(DType::u8, {x.rows(), static_cast<int64_t>(prepared_row_bytes(x.cols(), kind))});
    rows = {static_cast<std::byte*>(bytes.data), x.rows(), x.cols(), kind};
    prepare_rows(s, rows, x);
  }
  return input;
}

const PackedMatrix& Projector::packed(Stream& s, const Matrix& w) {
  Entry& entry = entries_[w.data];
  if (entry.memory) return entry.matrix;
  constexpr size_t kAlign = 64;
  const size_t bytes = (packed_bytes(w.format, w.rows, w.cols) + kAlign - 1) / kAlign * kAlign;
  entry.memory.reset(static_cast<std::byte*>(std::aligned_alloc(kAlign, bytes)));
  if (!entry.memory) throw std::bad_alloc();
  entry.matrix = {entry.memory.get(), w.format, w.rows, w.cols};
  pack_matrix(s, entry.matrix, w);
  return entry.matrix;
}

/// A product of `rows` rows with the first `outs` of w.
void Projector::count(const Matrix& w, int64_t rows, int64_t outs) {
  work_.bytes += static_cast<double>(outs * row_bytes(w.format, w.cols));
  work_.operations += 2 * static_cast<double>(rows) * static_cast<double>(outs * w.cols);
}

void Projector::project(Stream& s, Tensor y, const InferInput& x, const Matrix& w, Out out) {
  if (s.is_dry()) return;
  count(w, y.rows(), y.cols());
  if (observer_) observer_(x.x, w);
  packed_linear(s, y, rows_for(x, w), packed(s, w), out);
}

void Projector::project_experts(Stream& s, Tensor y, const InferInput& x, const Tensor& offsets_E1, ExpertBank w) {
  if (s.is_dry()) return;
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  bank_.assign(w.size(), {});
  for (size_t e = 0; e < w.size(); ++e) {
    if (offset[e + 1] == offset[e]) continue;
    count(w[e], offset[e + 1] - offset[e], y.cols());
    if (observer_) observer_(x.x.slice_rows(offset[e], offset[e + 1] - offset[e]), w[e]);
    bank_[e] = packed(s, w[e]);
  }
  packed_grouped_linear(s, y, rows_for(x, w[0]), offsets_E1, bank_);
}

}  // namespace sluice
