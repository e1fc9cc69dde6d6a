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

/// kv_b is read row by row and column by column and so not kept in blocks: in bfloat16, whose error is small beside
/// that of the blocks, where the file has not float32.
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

Model map_gguf_model(const std::shared_ptr<const GgufFile>& file) {
  Model m;
  m.config = read_gguf_config(file->metadata());
  m.config.num_nextn_predict_layers = stored_mtp_modules(*file, m.config);
  m.weights = weight_shapes(m.config, m.config.num_nextn_predict_layers);
  m.files = file;
  m.mappings = file->parts();
  const GgufRows rows(file, m.config);
  for (const Param& p : parameters(m.weights)) {
    const auto mapped = rows.mapped(p);
    if (mapped && is_mappable(p, mapped->format) && !p.name.ends_with("kv_b_proj.weight"))
      *p.matrix = *mapped;
    else
      p.matrix->format = format_of_copy(*file, p);
  }
  return m;
}

void read_gguf_copies(Stream& s, Model& m, const std::shared_ptr<const GgufFile>& file) {
  const GgufRows rows(file, m.config);
  std::vector<Param> copied;
  size_t bytes = 0;
  for (const Param& p : parameters(m.weights)) {
    if (p.matrix->data || !*p.matrix) continue;
    copied.push_back(p);
    Matrix shape = *p.matrix;
    Arena counting = Arena::counting();
    allocate(shape, shape.format, counting);
    bytes += counting.peak_bytes();
  }
  m.memory = Arena(bytes);
  for (const Param& p : copied) {
    allocate(*p.matrix, p.matrix->format, m.memory);
    fill(s, rows, p);
  }
}

Model load_gguf_model(Stream& s, const std::shared_ptr<const GgufFile>& file) {
  Model m = map_gguf_model(file);
  read_gguf_copies(s, m, file);
  return m;
}

}  // namespace sluice
