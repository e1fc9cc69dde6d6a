#include "convert/gguf_names.h"

#include <charconv>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

struct Row {
  std::string_view parameter, tensor;
};

constexpr Row kWhole[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

constexpr std::string_view kKvB = "self_attn.kv_b_proj.weight";

// After "model.layers.L." and "blk.L.".
constexpr Row kOfLayer[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_a_proj.weight", "attn_q_a.weight"},
    {"self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"},
    {"self_attn.q_b_proj.weight", "attn_q_b.weight"},
    {"self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"},
    {"self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"},
    {kKvB, "attn_kv_b.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
    {"mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"},
    {"mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"},
    {"mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"},
    {"enorm.weight", "nextn.enorm.weight"},
    {"hnorm.weight", "nextn.hnorm.weight"},
    {"eh_proj.weight", "nextn.eh_proj.weight"},
    {"shared_head.norm.weight", "nextn.shared_head_norm.weight"},
    {"embed_tokens.weight", "nextn.embed_tokens.weight"},
    {"shared_head.head.weight", "nextn.shared_head_head.weight"},
};

// After "mlp.experts.E.".
constexpr Row kOfExpert[] = {
    {"gate_proj.weight", "ffn_gate_exps.weight"},
    {"up_proj.weight", "ffn_up_exps.weight"},
    {"down_proj.weight", "ffn_down_exps.weight"},
};

template <size_t n>
std::string_view look_up(const Row (&rows)[n], std::string_view parameter) {
  for (const Row& row : rows)
    if (row.parameter == parameter) return row.tensor;
  return {};
}

/// Takes "PREFIX<number>." off the front of `name`.
std::optional<int64_t> take_number(std::string_view& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  const char* end = name.data() + name.size();
  int64_t number = 0;
  const auto [rest, error] = std::from_chars(name.data() + prefix.size(), end, number);
  if (error != std::errc() || rest == end || *rest != '.') return std::nullopt;
  name.remove_prefix(static_cast<size_t>(rest + 1 - name.data()));
  return number;
}

}  // namespace

GgufPlace gguf_place(std::string_view parameter) {
  GgufPlace place;
  std::string_view rest = parameter;
  const std::optional<int64_t> layer = take_number(rest, "model.layers.");
  const std::string prefix = layer ? fmt::format("blk.{}.", *layer) : "";
  if (layer) place.expert = take_number(rest, "mlp.experts.");
  const std::string_view tensor = !layer         ? look_up(kWhole, rest)
                                  : place.expert ? look_up(kOfExpert, rest)
                                                 : look_up(kOfLayer, rest);
  check(!tensor.empty(), "gguf_place: expected the name of a parameter");
  place.tensor = prefix + std::string(tensor);
  if (rest == kKvB) {
    place.key_half = prefix + "attn_k_b.weight";
    place.value_half = prefix + "attn_v_b.weight";
  }
  return place;
}

}  // namespace sluice
