#include "convert/gguf_model.h"

#include "convert/gguf_config.h"
#include "convert/gguf_rows.h"

namespace sluice {
namespace {

/// Whether inference computes with the format as it lies in the file.
bool is_mappable(const Param& p, Format format) {
  const bool must_be_f32 = p.kind == ParamKind::norm || p.kind == ParamKind::router || p.kind == ParamKind::router_bias;
  return format == Format::f32 || (!must_be_f32 && format != Format::f16);
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
      allocate(*p.matrix, Format::f32, counting);
    }
  }
  m.memory = Arena(counting.peak_bytes());
  for (const Param& p : copied) {
    allocate(*p.matrix, Format::f32, m.memory);
    constexpr int64_t kRows = 128;
    const Tensor out = p.matrix->tensor();
    parallel_for(s, out.rows(), kRows, [&](int64_t begin, int64_t end, int) {
      rows.read(p, begin, end - begin, static_cast<float*>(out.at(begin)));
    });
  }
  return m;
}

}  // namespace sluice
