#include "engine/project.h"

#include <algorithm>
#include <utility>

#include "ops/block_format.h"

namespace sluice {
namespace {

/// Most bytes of a file that are in memory at a time where that is bounded.
constexpr int64_t kPackBytes = int64_t{8} << 20;

const PreparedRows& rows_for(const InferInput& x, const Matrix& w) {
  return activations_of(w.format) == Activations::codes ? x.codes : x.floats;
}

PackedMatrix alloc_packed(Arena& a, const Matrix& w) {
  const Tensor bytes = a.alloc(DType::u8, {static_cast<int64_t>(packed_bytes(w.format, w.rows, w.cols))});
  return {static_cast<std::byte*>(bytes.data), w.format, w.rows, w.cols};
}

}  // namespace

InferInput reserve_input(Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights) {
  InferInput input{x, {}, {}};
  for (const Matrix* w : weights) {
    const Activations kind = activations_of(w->format);
    PreparedRows& rows = kind == Activations::codes ? input.codes : input.floats;
    if (rows.cols > 0) continue;
    const Tensor bytes = a.alloc(DType::u8, {x.rows(), static_cast<int64_t>(prepared_row_bytes(x.cols(), kind))});
    rows = {static_cast<std::byte*>(bytes.data), x.rows(), x.cols(), kind};
  }
  return input;
}

void prepare_input(Stream& s, const InferInput& input, int64_t begin, int64_t count) {
  for (const PreparedRows& rows : {input.codes, input.floats})
    if (rows.cols > 0) prepare_rows(s, rows.slice(begin, count), input.x.slice_rows(begin, count));
}

InferInput infer_input(Stream& s, Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights) {
  const InferInput input = reserve_input(a, x, weights);
  prepare_input(s, input, 0, x.rows());
  return input;
}

size_t total_packed_bytes(const ModelWeights& w) {
  ModelWeights shapes = w;
  Arena total = Arena::counting();
  for (const Param& p : parameters(shapes))
    if (is_packable(*p.matrix)) alloc_packed(total, *p.matrix);
  return total.peak_bytes();
}

const PackedMatrix& Projector::packed(Stream& s, const Matrix& w) {
  if (const auto found = packed_.find(w.data); found != packed_.end()) return found->second;
  const size_t mark = memory_.mark();
  const PackedMatrix all = alloc_packed(memory_, w);
  try {
    // Where memory is bounded, the file's bytes are given back before the next ones are read.
    const int64_t step =
        mappings_.empty() ? w.rows : std::max<int64_t>(1, kPackBytes / row_bytes(w.format, w.cols) / 64) * 64;
    for (int64_t begin = 0; begin < w.rows; begin += step) {
      Matrix rows = w;
      rows.data = static_cast<std::byte*>(w.data) + begin * row_bytes(w.format, w.cols);
      rows.rows = std::min(step, w.rows - begin);
      std::byte* out = all.data + (begin > 0 ? packed_bytes(w.format, begin, w.cols) : 0);
      pack_matrix(s, {out, w.format, rows.rows, w.cols}, rows);
      release(rows);
    }
    return packed_.emplace(w.data, all).first->second;
  } catch (...) {
    memory_.release(mark);
    throw;
  }
}

void Projector::release(const Matrix& w) {
  const size_t bytes = static_cast<size_t>(w.rows * row_bytes(w.format, w.cols));
  for (const MappedFile& file : mappings_) file.release({static_cast<const std::byte*>(w.data), bytes});
}

void Projector::bound(ExpertCache& experts, std::span<const MappedFile> mappings) {
  experts_ = &experts;
  mappings_ = mappings;
}

void Projector::expect_experts(const MoeWeights& w, std::span<const int32_t> experts) {
  if (experts_) experts_->expect(w, experts);
}

void Projector::begin_experts(const MoeWeights& w, const Tensor& offsets_E1) {
  offsets_E1_ = offsets_E1;
  has_begun_ = false;
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  round_.clear();
  for (size_t e = 0; e < w.gate.size(); ++e)
    if (offset[e + 1] > offset[e]) round_.push_back(static_cast<int32_t>(e));
  if (experts_) experts_->begin(w, round_);
}

bool Projector::next_experts() {
  if (experts_) {
    const auto ready = experts_->next();
    round_.assign(ready.begin(), ready.end());
    std::sort(round_.begin(), round_.end());
  } else if (std::exchange(has_begun_, true)) {
    return false;
  }
  const int32_t* offset = offsets_E1_.ptr<int32_t>();
  round_rows_.clear();
  for (const int32_t e : round_) {
    if (round_rows_.empty() || round_rows_.back().begin + round_rows_.back().count < offset[e])
      round_rows_.push_back({offset[e], 0});
    round_rows_.back().count += offset[e + 1] - offset[e];
  }
  return !round_.empty();
}

/// A product of `rows` rows with the first `outs` of w.
void Projector::count(const Matrix& w, int64_t rows, int64_t outs) {
  work_.bytes += static_cast<double>(outs * row_bytes(w.format, w.cols));
  work_.operations += 2 * static_cast<double>(rows) * static_cast<double>(outs * w.cols);
}

void Projector::project(Stream& s, const InferInput& x, std::initializer_list<Projection> products) {
  if (s.is_dry()) return;
  products_.clear();
  for (const auto& [y, w, out] : products) {
    count(w, y.rows(), y.cols());
    if (observer_) observer_(x.x, w);
    products_.push_back({y, rows_for(x, w), packed(s, w), out});
  }
  packed_linear(s, products_);
}

void Projector::project_experts(Stream& s, const InferInput& x, std::initializer_list<ExpertProjection> products) {
  const int32_t* offset = offsets_E1_.ptr<int32_t>();
  products_.clear();
  for (const auto& [y, bank] : products)
    for (const int32_t expert : round_) {
      const size_t e = static_cast<size_t>(expert);
      const int64_t begin = offset[e], rows = offset[e + 1] - begin;
      const Matrix& w = bank[e];
      count(w, rows, y.cols());
      if (observer_) observer_(x.x.slice_rows(begin, rows), w);
      products_.push_back({y.slice_rows(begin, rows), rows_for(x, w).slice(begin, rows),
                           experts_ ? experts_->packed(w) : packed(s, w)});
    }
  packed_linear(s, products_);
}

}  // namespace sluice
