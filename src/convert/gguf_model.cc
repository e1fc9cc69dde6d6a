#include "convert/gguf_model.h"

#include "convert/gguf_config.h"
#include "convert/gguf_names.h"
#include "convert/gguf_rows.h"
#include "ops/block_quant.h"

namespace sluice {
namespace {

/// Whether inference computes with the format as it lies in the file.
bool is_mappable(const Param& p, Format format) {
  const bool must_be_f32 = p.kind == ParamKind::norm || p.kind == ParamKind::router || p.kind == ParamKind::router_bias;
  return format == Format::f32 || (!must_be_f32 && format != Format::f16);
}

/// kv_b is read row by row and column by column and so not kept in blocks: in bfloat16, whose error is small beside that
/// of the blocks, where the file has not float32.
Format format_of_copy(const GgufFile& file, const Param& p) {
  const GgufPlace place = gguf_place(p.name);
  if (place.key_half.empty()) return Format::f32;
  const GgufTensor* t = file.find(place.key_half);
  if (!t) t = file.find(place.tensor);
  return t && t->type == GgmlType::f32 ? Format::f32 : Format::bf16;
}

/// Fills `p`, which has memory, from the file.
void fill(Stream& s, const GgufRows& rows, const Param& p) {
  constexpr int64_t kRows = 128;
  const Matrix& m = *p.matrix;
  parallel_for(s, m.rows, kRows, [&](int64_t begin, int64_t end, int) {
    if (m.format == Format::f32) return rows.read(p, begin, end - begin, static_cast<float*>(m.tensor().at(begin)));
    std::vector<float> values(static_cast<size_t>((end - begin) * m.cols));
    rows.read(p, begin, end - begin, values.data());
    for (int64_t r = begin; r < end; ++r)
      quantize_row(values.data() + (r - begin) * m.cols, m.format, m.cols, nullptr, m.tensor().at(r));
  });
}

}  // namespace

Model load_gguf_model(Stream& s, const std::shared_ptr<const GgufFile>& file) {
  Model m;
  m.config = read_gguf_config(file->metadata());
  m.config.num_nextn_predict_layers = stored_mtp_modules(*file, m.config);
  m.weights = weight_shapes(m.config, m.config.num_nextn_predict_layers);
  m.files = file;
  const GgufRows rows(file, m.config);
  std::vector<Param> copied;
  Arena counting = Arena::counting();
  for (const Param& p : parameters(m.weights)) {
    const auto mapped = rows.mapped(p);
    if (mapped && is_mappable(p, mapped->format) && !p.name.ends_with("kv_b_proj.weight")) {
      *p.matrix = *mapped;
    } else {
      copied.push_back(p);
      allocate(*p.matrix, format_of_copy(*file, p), counting);
    }
  }
  m.memory = Arena(counting.peak_bytes());
  for (const Param& p : copied) {
    allocate(*p.matrix, format_of_copy(*file, p), m.memory);
    fill(s, rows, p);
  }
  return m;
}

}  // namespace sluice
