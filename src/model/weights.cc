#include "model/weights.h"

#include "model/config.h"

namespace sluice {
namespace {

Matrix shape(int64_t rows, int64_t cols) {
  Matrix m;
  m.rows = rows;
  m.cols = cols;
  return m;
}

MlaWeights mla_shapes(const HfConfig& c) {
  const int64_t q = c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  MlaWeights w;
  if (c.q_lora_rank) {
    w.q_a = shape(c.q_lora_rank, c.hidden_size);
    w.q_a_norm = shape(1, c.q_lora_rank);
    w.q_b = shape(q, c.q_lora_rank);
  } else {
    w.q_proj = shape(q, c.hidden_size);
  }
  w.kv_a = shape(c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size);
  w.kv_a_norm = shape(1, c.kv_lora_rank);
  w.kv_b = shape(c.num_attention_heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank);
  w.o = shape(c.hidden_size, c.num_attention_heads * c.v_head_dim);
  return w;
}

FfnWeights ffn_shapes(int64_t D, int64_t F) { return {shape(F, D), shape(F, D), shape(D, F)}; }

BlockWeights block_shapes(const HfConfig& c, int64_t layer) {
  BlockWeights w;
  w.attn_norm = w.ffn_norm = shape(1, c.hidden_size);
  w.mla = mla_shapes(c);
  w.is_moe = is_moe_layer(c, layer);
  if (!w.is_moe) {
    w.dense = ffn_shapes(c.hidden_size, c.intermediate_size);
    return w;
  }
  const FfnWeights expert = ffn_shapes(c.hidden_size, c.moe_intermediate_size);
  const size_t E = static_cast<size_t>(c.n_routed_experts);
  w.moe.router = shape(c.n_routed_experts, c.hidden_size);
  if (c.topk_method == "noaux_tc") w.moe.bias = shape(1, c.n_routed_experts);
  w.moe.gate.assign(E, expert.gate);
  w.moe.up.assign(E, expert.up);
  w.moe.down.assign(E, expert.down);
  if (c.n_shared_experts) w.moe.shared = ffn_shapes(c.hidden_size, c.n_shared_experts * c.moe_intermediate_size);
  return w;
}

class Lister {
 public:
  std::vector<Param> list;
  int64_t layer = -1;

  void add(const std::string& name, Matrix& m, ParamKind kind = ParamKind::linear) {
    if (m) list.push_back({name, &m, kind, layer});
  }
  void ffn(const std::string& prefix, FfnWeights& w) {
    add(prefix + "gate_proj.weight", w.gate);
    add(prefix + "up_proj.weight", w.up);
    add(prefix + "down_proj.weight", w.down);
  }
  void mla(const std::string& prefix, MlaWeights& w) {
    add(prefix + "q_proj.weight", w.q_proj);
    add(prefix + "q_a_proj.weight", w.q_a);
    add(prefix + "q_a_layernorm.weight", w.q_a_norm, ParamKind::norm);
    add(prefix + "q_b_proj.weight", w.q_b);
    add(prefix + "kv_a_proj_with_mqa.weight", w.kv_a);
    add(prefix + "kv_a_layernorm.weight", w.kv_a_norm, ParamKind::norm);
    add(prefix + "kv_b_proj.weight", w.kv_b);
    add(prefix + "o_proj.weight", w.o);
  }
  void block(const std::string& prefix, BlockWeights& w) {
    add(prefix + "input_layernorm.weight", w.attn_norm, ParamKind::norm);
    mla(prefix + "self_attn.", w.mla);
    add(prefix + "post_attention_layernorm.weight", w.ffn_norm, ParamKind::norm);
    ffn(prefix + "mlp.", w.dense);
    add(prefix + "mlp.gate.weight", w.moe.router, ParamKind::router);
    add(prefix + "mlp.gate.e_score_correction_bias", w.moe.bias, ParamKind::router_bias);
    for (size_t e = 0; e < w.moe.gate.size(); ++e) {
      const std::string expert = fmt::format("{}mlp.experts.{}.", prefix, e);
      const size_t first = list.size();
      add(expert + "gate_proj.weight", w.moe.gate[e]);
      add(expert + "up_proj.weight", w.moe.up[e]);
      add(expert + "down_proj.weight", w.moe.down[e]);
      for (size_t i = first; i < list.size(); ++i) list[i].expert = static_cast<int64_t>(e);
    }
    ffn(prefix + "mlp.shared_experts.", w.moe.shared);
  }
};

}  // namespace

std::vector<Param> parameters(ModelWeights& w) {
  Lister l;
  l.add("model.embed_tokens.weight", w.embed, ParamKind::embedding);
  for (size_t i = 0; i < w.layers.size(); ++i) {
    l.layer = static_cast<int64_t>(i);
    l.block(fmt::format("model.layers.{}.", i), w.layers[i]);
  }
  l.layer = -1;
  l.add("model.norm.weight", w.norm, ParamKind::norm);
  l.add("lm_head.weight", w.head, ParamKind::head);
  for (size_t i = 0; i < w.mtp.size(); ++i) {
    l.layer = static_cast<int64_t>(w.layers.size() + i);
    const std::string prefix = fmt::format("model.layers.{}.", l.layer);
    l.add(prefix + "enorm.weight", w.mtp[i].enorm, ParamKind::norm);
    l.add(prefix + "hnorm.weight", w.mtp[i].hnorm, ParamKind::norm);
    l.add(prefix + "eh_proj.weight", w.mtp[i].eh_proj, ParamKind::eh_proj);
    l.block(prefix, w.mtp[i].block);
    l.add(prefix + "shared_head.norm.weight", w.mtp[i].head_norm, ParamKind::norm);
  }
  return std::move(l.list);
}

ModelWeights weight_shapes(const HfConfig& c, int64_t mtp_modules) {
  ModelWeights w;
  w.embed = w.head = shape(c.vocab_size, c.hidden_size);
  w.norm = shape(1, c.hidden_size);
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) w.layers.push_back(block_shapes(c, l));
  for (int64_t k = 0; k < mtp_modules; ++k) {
    MtpWeights& m = w.mtp.emplace_back();
    m.enorm = m.hnorm = m.head_norm = shape(1, c.hidden_size);
    m.eh_proj = shape(c.hidden_size, 2 * c.hidden_size);
    m.block = block_shapes(c, c.num_hidden_layers + k);
  }
  return w;
}

ModelWeights shapes_of(const ModelWeights& w) {
  ModelWeights shapes = w;
  for (const Param& p : parameters(shapes)) *p.matrix = shape(p.matrix->rows, p.matrix->cols);
  return shapes;
}

Format working_format(ParamKind kind, Precision precision) {
  if (precision == Precision::f32 || kind == ParamKind::router || kind == ParamKind::router_bias) return Format::f32;
  return precision == Precision::fp8 && kind == ParamKind::linear ? Format::fp8_128 : Format::bf16;
}

DType activation_dtype(Precision precision) { return precision == Precision::f32 ? DType::f32 : DType::bf16; }

size_t matrix_bytes(const Matrix& m) {
  const size_t scales = m.format == Format::fp8_128 ? static_cast<size_t>(m.scale_rows() * m.scale_cols()) * 4 : 0;
  return m.tensor().bytes() + scales;
}

namespace {

/// Takes memory for two matrices of one shape that becomes one; false: they would not be aligned.
bool allocate_stacked(Matrix& top, Matrix& bottom, Format format, Arena& arena) {
  constexpr size_t kAlignment = 64;
  top.format = bottom.format = format;
  if (top.tensor().bytes() % kAlignment != 0 || (format == Format::fp8_128 && top.rows % 128 != 0)) return false;
  Matrix both{nullptr, nullptr, format, 2 * top.rows, top.cols};
  allocate(both, format, arena);
  top.data = both.data;
  bottom.data = static_cast<std::byte*>(both.data) + top.tensor().bytes();
  if (format != Format::fp8_128) return true;
  top.scales = both.scales;
  bottom.scales = both.scales + top.scale_rows() * top.scale_cols();
  return true;
}

}  // namespace

void allocate(Matrix& m, Format format, Arena& arena) {
  m.format = format;
  m.data = arena.alloc(m.tensor().dtype, {m.rows, m.cols}).data;
  if (format == Format::fp8_128)
    m.scales = static_cast<float*>(arena.alloc(DType::f32, {m.scale_rows(), m.scale_cols()}).data);
}

Matrix stacked(const Matrix& top, const Matrix& bottom) {
  const bool is_fp8 = top.format == Format::fp8_128;
  const auto* end = static_cast<const std::byte*>(top.data) + top.tensor().bytes();
  if (end != bottom.data || top.cols != bottom.cols) return {};
  if (is_fp8 && (top.rows % 128 != 0 || top.scales + top.scale_rows() * top.scale_cols() != bottom.scales)) return {};
  return {top.data, top.scales, top.format, top.rows + bottom.rows, top.cols};
}

void allocate_all(ModelWeights& w, Precision precision, Arena& arena) {
  const std::vector<Param> list = parameters(w);
  for (size_t i = 0; i < list.size(); ++i) {
    const Format format = working_format(list[i].kind, precision);
    const bool is_gate = list[i].name.ends_with("gate_proj.weight");
    if (is_gate && allocate_stacked(*list[i].matrix, *list[i + 1].matrix, format, arena))
      ++i;
    else
      allocate(*list[i].matrix, format, arena);
  }
}

}  // namespace sluice
