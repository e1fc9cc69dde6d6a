#include "engine/fused_block.h"

namespace sluice {
namespace {

constexpr int64_t kVectorWidth = 8;

float eps(const InferPass& pass) { return static_cast<float>(pass.config->rms_norm_eps); }

/// The shape of rows that are not in memory as float32.
Tensor shape_of(int64_t rows, int64_t cols) { return Tensor(static_cast<float*>(nullptr), {rows, cols}); }

/// o (rows, H value) of the pass's first rows, the text, whose queries are in qa but for what absorbs `nope`.
void attend_text(Stream& s, Arena& a, const Tensor& o_TH, const Tensor& qa_TH, const PreparedRows& nope,
                 const InferBlock& b, const Tensor& cache, const InferPass& pass) {
  const LatentShape& shape = pass.shape;
  const Matrix& kv_b = b.w->mla.kv_b;
  const int64_t T = pass.text_rows;
  const Tensor u_TH = a.f32(T, shape.heads * shape.latent);
  const PreparedRows u = reserve_input(a, shape_of(T * shape.heads, shape.latent), {&kv_b}).halves;
  const CachePlaces places{pass.places.position_T.first(T), pass.places.sequence_T.first(T), pass.places.pages_SP};
  if (!s.is_dry()) pass.projector->add_work(text_work(pass, kv_b, sizeof(bf16)));
  absorb_rows(s, qa_TH, nope, *b.heads, shape);
  infer_attention(s, u_TH, qa_TH, cache, places, shape);
  prepare_rows(s, u, Tensor(u_TH.data, u_TH.dtype, {T * shape.heads, shape.latent}));
  expand_rows(s, o_TH.slice_rows(0, T), u, *b.heads, shape);
}

/// h += attention(norm(h)).
void attention(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const Tensor& cache, const InferPass& pass) {
  const MlaWeights& w = b.w->mla;
  const LatentShape& shape = pass.shape;
  const int64_t T = h_TD.rows();
  const InferInput x = reserve_input(a, h_TD, {&w.kv_a, &w.q_a});
  const Tensor raw_TA = a.f32(T, w.kv_a.rows), c_TQ = a.f32(T, w.q_a.rows), q_TH = a.f32(T, w.q_b.rows);
  norm_rows(s, x.halves, {}, h_TD, b.attn_norm, eps(pass));
  pass.projector->project(s, x, {{raw_TA, w.kv_a}, {c_TQ, w.q_a}});
  const InferInput q = reserve_input(a, c_TQ, {&w.q_b});
  latent_rows(s, cache, q.halves, {raw_TA, c_TQ, b.kv_a_norm, b.q_a_norm, pass.rope_table, kLatentNormEps},
              pass.places);
  pass.projector->project(s, q, {{q_TH, w.q_b}});
  const Tensor o_TH = a.f32(T, shape.heads * shape.value);
  Tensor qa_TH;
  PreparedRows nope;
  if (pass.text_rows > 0) {
    qa_TH = a.f32(pass.text_rows, shape.heads * shape.row());
    nope = reserve_input(a, shape_of(pass.text_rows * shape.heads, shape.nope), {&w.kv_b}).halves;
  }
  query_rows(s, qa_TH, nope, q_TH, pass.places.position_T, pass.rope_table, shape);
  if (pass.text_rows > 0) attend_text(s, a, o_TH, qa_TH, nope, b, cache, pass);
  for (const PromptRows& p : pass.prompts)
    infer_prompt_attention(s, o_TH.slice_rows(p.row, p.count), q_TH.slice_rows(p.row, p.count), cache, p.pages_P,
                           p.begin, w.kv_b, shape);
  pass.projector->project(s, infer_input(s, a, o_TH, {&w.o}), {{h_TD, w.o, Out::add}});
}

/// h += ffn(x).
void ffn(Stream& s, Arena& a, Tensor h_TD, const InferInput& x, const FfnWeights& w, const InferPass& pass) {
  const int64_t T = h_TD.rows(), F = w.gate.rows;
  const Tensor g_TF = a.f32(T, F), u_TF = a.f32(T, F);
  const InferInput p = reserve_input(a, g_TF, {&w.down});
  pass.projector->project(s, x, {{g_TF, w.gate}, {u_TF, w.up}});
  swiglu_rows(s, p.halves, g_TF, u_TF);
  pass.projector->project(s, p, {{h_TD, w.down, Out::add}});
}

/// Whether the shared expert lies behind the last of the routed ones, as if it were one of them.
bool is_next_expert(const Stream& s, std::span<const Matrix> bank, const Matrix& shared) {
  if (bank.size() < 2 || shared.format != bank[0].format || shared.rows != bank[0].rows) return false;
  const auto address = [](const Matrix& m) { return static_cast<const std::byte*>(m.data); };
  return s.is_dry() || address(shared) - address(bank.back()) == address(bank[1]) - address(bank[0]);
}

/// h += moe(norm(h)).
void moe(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const InferPass& pass) {
  const MoeWeights& w = b.w->moe;
  const int64_t T = h_TD.rows(), D = h_TD.cols(), E = w.router.rows, K = pass.router.top_k, F = w.gate[0].rows;
  const bool has_shared = w.shared.gate && is_next_expert(s, w.gate, w.shared.gate) &&
                          is_next_expert(s, w.up, w.shared.up) && is_next_expert(s, w.down, w.shared.down);
  const int64_t R = T * K + (has_shared ? T : 0);
  const InferInput x = reserve_input(a, h_TD, {&w.router, &w.gate[0], &w.up[0]});
  const Tensor logits_TE = a.f32(T, E), score_TE = a.f32(T, E), weight_TK = a.f32(T, K);
  const Tensor choice_TK = a.alloc(DType::i32, {T, K}), row_of_TK = a.alloc(DType::i32, {T, K});
  const Tensor offsets = a.alloc(DType::i32, {E + 1 + has_shared}), slot_of_R = a.alloc(DType::i32, {T * K});
  norm_rows(s, x.halves, x.floats, h_TD, b.ffn_norm, eps(pass));
  pass.projector->project(s, x, {{logits_TE, w.router}});
  route_forward(s, choice_TK, weight_TK, score_TE, logits_TE, w.bias ? w.bias.tensor() : Tensor(), pass.router);
  moe_permute(s, offsets, row_of_TK, slot_of_R, choice_TK);
  if (!s.is_dry() && *pass.route_observer) (*pass.route_observer)(choice_TK, w.router);

  const Tensor g_RF = a.f32(R, F), u_RF = a.f32(R, F), y_RD = a.f32(R, D);
  const InferInput p = reserve_input(a, g_RF, {&w.down[0]});
  pass.projector->project_routed(s, x, {offsets, slot_of_R, has_shared}, {{g_RF, w.gate}, {u_RF, w.up}});
  swiglu_rows(s, p.halves, g_RF, u_RF);
  pass.projector->project_routed(s, p, {offsets, {}, has_shared}, {{y_RD, w.down}});
  combine_rows(s, h_TD, y_RD, weight_TK, row_of_TK);
  if (w.shared.gate && !has_shared) ffn(s, a, h_TD, x, w.shared, pass);
}

}  // namespace

bool has_fused_ops(const BlockWeights& w, const HfConfig& c, const Device& gpu) {
  if (!gpu.is_cuda() || !w.mla.q_a) return false;
  for (const int64_t width :
       {c.hidden_size, c.kv_lora_rank, c.qk_rope_head_dim, c.q_lora_rank,
        w.is_moe ? w.moe.gate[0].rows : w.dense.gate.rows, w.is_moe && w.moe.shared.gate ? w.moe.shared.gate.rows : 0})
    if (width % kVectorWidth != 0) return false;
  const auto is_rounded = [&](const Matrix& m) { return !m || activations_of(m.format, gpu) == Activations::halves; };
  const auto are_rounded = [&](const FfnWeights& f) {
    return is_rounded(f.gate) && is_rounded(f.up) && is_rounded(f.down);
  };
  return is_rounded(w.mla.q_a) && is_rounded(w.mla.q_b) && is_rounded(w.mla.kv_a) && is_rounded(w.mla.kv_b) &&
         is_rounded(w.mla.o) &&
         (w.is_moe ? are_rounded(w.moe.shared) && are_rounded({w.moe.gate[0], w.moe.up[0], w.moe.down[0]})
                   : are_rounded(w.dense));
}

void fused_block(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const Tensor& cache, const InferPass& pass) {
  const size_t mark = a.mark();
  attention(s, a, h_TD, b, cache, pass);
  a.release(mark);
  if (b.w->is_moe) {
    moe(s, a, h_TD, b, pass);
  } else {
    const InferInput x = reserve_input(a, h_TD, {&b.w->dense.gate, &b.w->dense.up});
    norm_rows(s, x.halves, {}, h_TD, b.ffn_norm, eps(pass));
    ffn(s, a, h_TD, x, b.w->dense, pass);
  }
  a.release(mark);
}

}  // namespace sluice
