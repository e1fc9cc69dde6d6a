#include "engine/project.h"

#include <algorithm>
#include <utility>

#include "ops/block_format.h"

namespace sluice {
namespace {

/// Most bytes of a file that are in memory at a time where that is bounded.
constexpr int64_t kPackBytes = int64_t{8} << 20;

/// Those that products with `w` want.
template <class Input>
auto& rows_for(Input& x, const Matrix& w, const Device& device) {
  const Activations kind = activations_of(w.format, device);
  return kind == Activations::codes ? x.codes : kind == Activations::floats ? x.floats : x.halves;
}

PackedMatrix alloc_packed(Arena& a, const Matrix& w) {
  const Tensor bytes = a.alloc(DType::u8, {static_cast<int64_t>(packed_bytes(w.format, w.rows, w.cols))});
  return {static_cast<std::byte*>(bytes.data), w.format, w.rows, w.cols};
}

}  // namespace

InferInput reserve_input(Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights) {
  InferInput input{x, {}, {}, {}};
  for (const Matrix* w : weights) {
    const Activations kind = activations_of(w->format, a.device());
    PreparedRows& rows = rows_for(input, *w, a.device());
    if (rows.cols > 0) continue;
    const Tensor bytes = a.alloc(DType::u8, {x.rows(), static_cast<int64_t>(prepared_row_bytes(x.cols(), kind))});
    rows = {static_cast<std::byte*>(bytes.data), x.rows(), x.cols(), kind};
  }
  return input;
}

void prepare_input(Stream& s, const InferInput& input, int64_t begin, int64_t count) {
  for (const PreparedRows& rows : {input.codes, input.floats, input.halves})
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

Projector::Packed Projector::packed(Stream& s, const Matrix& w) {
  const double file_bytes = static_cast<double>(row_bytes(w.format, w.cols));
  if (device_.is_cuda()) return {{static_cast<std::byte*>(w.data), w.format, w.rows, w.cols}, file_bytes};
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
    const double bytes = w.format == Format::bf16 ? packed_read_bytes(all) / static_cast<double>(w.rows) : file_bytes;
    return packed_.emplace(w.data, Packed{all, bytes}).first->second;
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

void Projector::begin_experts(const MoeWeights& w, const Tensor& offsets_E1, int64_t rows) {
  offsets_E1_ = offsets_E1;
  num_rows_ = rows;
  has_begun_ = false;
  if (device_.is_cuda()) return;
  const int32_t* offset = offsets_E1.ptr<int32_t>();
  round_.clear();
  for (size_t e = 0; e < w.gate.size(); ++e)
    if (offset[e + 1] > offset[e]) round_.push_back(static_cast<int32_t>(e));
  if (experts_) experts_->begin(w, round_);
}

bool Projector::next_experts() {
  if (device_.is_cuda()) {
    round_rows_.assign(1, {0, num_rows_});
    return !std::exchange(has_begun_, true);
  }
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
void Projector::count(const Packed& w, int64_t rows, int64_t outs) {
  work_.bytes += static_cast<double>(outs) * w.row_bytes;
  work_.operations += 2 * static_cast<double>(rows) * static_cast<double>(outs * w.matrix.cols);
}

void Projector::project(Stream& s, const InferInput& x, std::initializer_list<Projection> products) {
  if (s.is_dry()) return;
  products_.clear();
  for (const auto& [y, w, out] : products) {
    if (observer_) observer_(x.x, w);
    const Packed p = packed(s, w);
    count(p, y.rows(), y.cols());
    products_.push_back({y, rows_for(x, w, device_), p.matrix, out});
  }
  packed_linear(s, products_);
}

void Projector::project_experts(Stream& s, const InferInput& x, std::initializer_list<ExpertProjection> products) {
  if (device_.is_cuda()) return project_routed(s, x, {offsets_E1_}, products);
  const int32_t* offset = offsets_E1_.ptr<int32_t>();
  products_.clear();
  for (const auto& [y, bank] : products)
    for (const int32_t expert : round_) {
      const size_t e = static_cast<size_t>(expert);
      const int64_t begin = offset[e], rows = offset[e + 1] - begin;
      const Matrix& w = bank[e];
      if (observer_) observer_(x.x.slice_rows(begin, rows), w);
      const Packed p =
          experts_ ? Packed{experts_->packed(w), static_cast<double>(row_bytes(w.format, w.cols))} : packed(s, w);
      count(p, rows, y.cols());
      products_.push_back({y.slice_rows(begin, rows), rows_for(x, w, device_).slice(begin, rows), p.matrix});
    }
  packed_linear(s, products_);
}

/// All experts at once: which have rows is known there alone.
void Projector::project_routed(Stream& s, const InferInput& x, const RoutedRows& rows,
                               std::initializer_list<ExpertProjection> products) {
  if (s.is_dry()) return;
  expert_products_.clear();
  for (const auto& [y, bank] : products) {
    const Matrix& first = bank.front();
    const int64_t num_experts = rows.offsets_E1.size() - 1, active = std::min(num_experts, y.rows());
    const int64_t stride =
        bank.size() > 1 ? static_cast<const std::byte*>(bank[1].data) - static_cast<const std::byte*>(first.data) : 0;
    work_.bytes += static_cast<double>(active * y.cols() * row_bytes(first.format, first.cols));
    work_.operations += 2 * static_cast<double>(y.rows()) * static_cast<double>(y.cols() * first.cols);
    expert_products_.push_back({y,
                                rows_for(x, first, device_),
                                {packed(s, first).matrix, stride, num_experts},
                                rows.slot_of_R,
                                rows.last_takes_rest});
  }
  packed_expert_linear(s, expert_products_, rows.offsets_E1);
}

}  // namespace sluice
