// H heads, C kv_lora_rank.
#include "convert/gguf_rows.h"

#include <algorithm>
#include <array>
#include <utility>

#include "convert/gguf_names.h"
#include "ops/block_quant.h"

namespace sluice {
namespace {

constexpr std::array<std::pair<GgmlType, Format>, 14> kFormats{{{GgmlType::f32, Format::f32},
                                                                {GgmlType::f16, Format::f16},
                                                                {GgmlType::bf16, Format::bf16},
                                                                {GgmlType::q4_0, Format::q4_0},
                                                                {GgmlType::q4_1, Format::q4_1},
                                                                {GgmlType::q5_0, Format::q5_0},
                                                                {GgmlType::q5_1, Format::q5_1},
                                                                {GgmlType::q8_0, Format::q8_0},
                                                                {GgmlType::q2_k, Format::q2_k},
                                                                {GgmlType::q3_k, Format::q3_k},
                                                                {GgmlType::q4_k, Format::q4_k},
                                                                {GgmlType::q5_k, Format::q5_k},
                                                                {GgmlType::q6_k, Format::q6_k},
                                                                {GgmlType::iq4_nl, Format::iq4_nl}}};

std::string readable_types() {
  std::string list;
  for (const auto& [type, format] : kFormats) list.append(list.empty() ? "" : ", ").append(ggml_type_info(type).name);
  return list;
}

/// Dimensions without ones at the end, which files may leave out.
std::vector<int64_t> trimmed(std::vector<int64_t> dims) {
  while (dims.size() > 1 && dims.back() == 1) dims.pop_back();
  return dims;
}

/// A tensor of the file as one matrix over all its rows, in read-only memory. Checks its type, and its dimensions
/// against those from the metadata.
Matrix matrix_of(const GgufFile& file, const std::string& name, const std::vector<int64_t>& dims) {
  const GgufTensor& t = file.get(name);
  const auto format = format_of(t.type);
  if (!format)
    fail("{}: {}: expected a type that can be computed with ({}), found {}", t.file, name, readable_types(),
         ggml_type_info(t.type).name);
  if (trimmed(t.dims) != trimmed(dims))
    fail("{}: {}: expected dimensions [{}] (from the metadata), found [{}]", t.file, name,
         fmt::join(trimmed(dims), ", "), fmt::join(trimmed(t.dims), ", "));
  Matrix all;
  all.data = const_cast<std::byte*>(t.bytes.data());
  all.format = *format;
  all.rows = t.rows() * t.matrices();
  all.cols = t.cols();
  return all;
}

const std::byte* row_at(const Matrix& m, int64_t row) {
  return static_cast<const std::byte*>(m.data) + row * row_bytes(m.format, m.cols);
}

}  // namespace

GgufRows::GgufRows(std::shared_ptr<const GgufFile> file, const HfConfig& config)
    : file_(std::move(file)), config_(config) {}

std::optional<Matrix> GgufRows::mapped(const Param& p) const {
  const GgufPlace place = gguf_place(p.name);
  if (!place.key_half.empty() && !file_->find(place.tensor)) return std::nullopt;
  const int64_t rows = p.matrix->rows, cols = p.matrix->cols;
  Matrix m = matrix_of(*file_, place.tensor, {cols, rows, place.expert ? config_.n_routed_experts : 1});
  m.data = const_cast<std::byte*>(row_at(m, place.expert.value_or(0) * rows));
  m.rows = rows;
  return m;
}

void GgufRows::read(const Param& p, int64_t begin, int64_t rows, float* out) const {
  const auto m = mapped(p);
  if (!m) {
    const GgufPlace place = gguf_place(p.name);
    return read_halves(place.key_half, place.value_half, begin, rows, out);
  }
  for (int64_t r = 0; r < rows; ++r) dequantize_row(row_at(*m, begin + r), m->format, m->cols, out + r * m->cols);
}

/// A half of kv_b, of three dimensions or of two with the heads in the second.
Matrix GgufRows::half(const std::string& name, int64_t cols, int64_t rows) const {
  const int64_t H = config_.num_attention_heads;
  const bool is_flat = file_->get(name).dims.size() == 2 && H > 1;
  return matrix_of(*file_, name, is_flat ? std::vector{cols, rows * H} : std::vector{cols, rows, H});
}

/// Of kv_b (H (nope + value), C), from attn_k_b, C rows of nope elements per head, and attn_v_b, value rows of C per
/// head.
void GgufRows::read_halves(const std::string& keys, const std::string& values, int64_t begin, int64_t rows,
                           float* out) const {
  const int64_t nope = config_.qk_nope_head_dim, value = config_.v_head_dim, C = config_.kv_lora_rank;
  const Matrix k_b = half(keys, nope, C), v_b = half(values, C, value);
  std::vector<float> key(static_cast<size_t>(nope));
  for (int64_t row = begin; row < begin + rows;) {
    const int64_t head = row / (nope + value), first = row % (nope + value);
    const int64_t end = std::min(begin + rows, row - first + (first < nope ? nope : nope + value));
    for (int64_t i = 0; first < nope && i < C; ++i) {
      dequantize_row(row_at(k_b, head * C + i), k_b.format, nope, key.data());
      for (int64_t r = row; r < end; ++r) out[(r - begin) * C + i] = key[static_cast<size_t>(first + r - row)];
    }
    for (int64_t r = row; first >= nope && r < end; ++r)
      dequantize_row(row_at(v_b, head * value + first - nope + r - row), v_b.format, C, out + (r - begin) * C);
    row = end;
  }
}

std::optional<Format> format_of(GgmlType type) {
  for (const auto& [t, format] : kFormats)
    if (t == type) return format;
  return std::nullopt;
}

GgmlType ggml_type_of(Format format) {
  for (const auto& [type, f] : kFormats)
    if (f == format) return type;
  throw_bug("ggml_type_of: expected a format of GGUF files", __FILE__, __LINE__);
}

int64_t stored_mtp_modules(const GgufFile& file, const HfConfig& config) {
  const std::string first = fmt::format("model.layers.{}.eh_proj.weight", config.num_hidden_layers);
  return file.find(gguf_place(first).tensor) ? config.num_nextn_predict_layers : 0;
}

}  // namespace sluice
