#include "convert/gguf_tensors.h"

#include <unordered_map>

#include "convert/gguf_names.h"
#include "convert/gguf_rows.h"
#include "ops/block_format.h"

namespace sluice {
namespace {

bool is_vector(ParamKind kind) { return kind == ParamKind::norm || kind == ParamKind::router_bias; }

/// Before fitting_format.
Format wanted_format(ParamKind kind, Format format) {
  if (is_vector(kind) || kind == ParamKind::router) return Format::f32;
  const bool below_six_bits = is_block_format(format) && format != Format::q8_0;
  return kind == ParamKind::head && below_six_bits ? Format::q6_k : format;
}

GgufOutput output(std::string name, Format wanted, std::vector<int64_t> dims, GgufOutput::Content content) {
  GgufOutput o;
  o.format = fitting_format(wanted, dims[0]);
  o.spec = {std::move(name), ggml_type_of(o.format), std::move(dims)};
  o.content = content;
  return o;
}

}  // namespace

Format fitting_format(Format format, int64_t cols) {
  const auto fits = [&](Format f) { return cols % block_shape(f).elements == 0; };
  if (fits(format)) return format;
  Format other = Format::iq4_nl;
  if (format == Format::q4_k) other = Format::q5_0;
  if (format == Format::q5_k) other = Format::q5_1;
  if (format == Format::q6_k) other = Format::q8_0;
  return fits(other) ? other : Format::f16;
}

std::vector<GgufOutput> gguf_outputs(ModelWeights& w, const HfConfig& c, Format format) {
  using Content = GgufOutput::Content;
  std::vector<GgufOutput> outputs;
  std::unordered_map<std::string, size_t> stacks;  // by name of the tensor
  for (const Param& p : parameters(w)) {
    const GgufPlace place = gguf_place(p.name);
    const Format wanted = wanted_format(p.kind, format);
    const int64_t rows = p.matrix->rows, cols = p.matrix->cols;
    if (!place.key_half.empty()) {
      const int64_t H = c.num_attention_heads;
      outputs.push_back(output(place.key_half, wanted, {c.qk_nope_head_dim, cols, H}, Content::keys));
      outputs.back().params = {p};
      outputs.push_back(output(place.value_half, wanted, {cols, c.v_head_dim, H}, Content::values));
      outputs.back().params = {p};
      continue;
    }
    const auto [stack, is_new] = stacks.emplace(place.tensor, outputs.size());
    if (is_new) {
      std::vector<int64_t> dims{cols};
      if (!is_vector(p.kind)) dims.push_back(rows);
      if (place.expert) dims.push_back(c.n_routed_experts);
      outputs.push_back(output(place.tensor, wanted, std::move(dims), Content::matrices));
    }
    outputs[stack->second].params.push_back(p);
  }
  return outputs;
}

}  // namespace sluice
