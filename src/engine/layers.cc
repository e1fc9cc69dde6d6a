#include "engine/layers.h"

#include "engine/fused_block.h"
#include "ops/block_format.h"
#include "ops/elementwise.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace sluice {
namespace {

float eps(const InferPass& pass) { return static_cast<float>(pass.config->rms_norm_eps); }

/// q (T, H (nope + rope)), its rope part rotated, from c (T, Q), which is what q_a gave, or the query already.
Tensor query(Stream& s, Arena& a, const Tensor& c_TQ, const InferBlock& b, const InferPass& pass) {
  const MlaWeights& w = b.w->mla;
  const LatentShape& shape = pass.shape;
  Tensor q_TH = c_TQ;
  if (w.q_a) {
    q_TH = a.f32(c_TQ.rows(), w.q_b.rows);
    const size_t mark = a.mark();
    const Tensor normed_TQ = a.f32(c_TQ.rows(), c_TQ.cols());
    infer_norm(s, a, normed_TQ, c_TQ, b.q_a_norm, kLatentNormEps);
    pass.projector->project(s, infer_input(s, a, normed_TQ, {&w.q_b}), {{q_TH, w.q_b}});
    a.release(mark);
  }
  rope_forward(s, q_TH.split_heads(shape.heads).slice_cols(shape.nope, shape.rope), pass.places.position_T,
               pass.rope_table);
  return q_TH;
}

/// Makes the rows' keys of what kv_a gave and puts them into the cache.
void cache_keys(Stream& s, Arena& a, const Tensor& raw_TA, const InferBlock& b, const Tensor& cache,
                const InferPass& pass) {
  const size_t mark = a.mark();
  const int64_t C = pass.shape.latent, R = pass.shape.rope;
  const Tensor key_TA = a.f32(raw_TA.rows(), C + R);
  infer_norm(s, a, key_TA.slice_cols(0, C), raw_TA.slice_cols(0, C), b.kv_a_norm, kLatentNormEps);
  copy(s, key_TA.slice_cols(C, R), raw_TA.slice_cols(C, R));
  rope_forward(s, key_TA.slice_cols(C, R), pass.places.position_T, pass.rope_table);
  infer_cache_rows(s, cache, key_TA, pass.places);
  a.release(mark);
}

/// o (rows, H value) of the pass's first rows, the text.
void attend_text(Stream& s, Arena& a, const Tensor& o_TH, const Tensor& q_TH, const Matrix& kv_b, const Tensor& cache,
                 const InferPass& pass) {
  const size_t mark = a.mark();
  const LatentShape& shape = pass.shape;
  const int64_t T = pass.text_rows;
  const Tensor qa_TH = a.f32(T, shape.heads * shape.row()), u_TH = a.f32(T, shape.heads * shape.latent);
  const CachePlaces places{pass.places.position_T.first(T), pass.places.sequence_T.first(T), pass.places.pages_SP};
  if (!s.is_dry()) pass.projector->add_work(text_work(pass, kv_b, sizeof(float)));
  infer_absorb_query(s, qa_TH, q_TH.slice_rows(0, T), kv_b, shape);
  infer_attention(s, u_TH, qa_TH, cache, places, shape);
  infer_expand_value(s, o_TH.slice_rows(0, T), u_TH, kv_b, shape);
  a.release(mark);
}

/// h += attention(x).
void attention(Stream& s, Arena& a, Tensor h_TD, const Tensor& x_TD, const InferBlock& b, const Tensor& cache,
               const InferPass& pass) {
  const MlaWeights& w = b.w->mla;
  const Matrix& to_q = w.q_a ? w.q_a : w.q_proj;
  const int64_t T = x_TD.rows();
  const Tensor raw_TA = a.f32(T, w.kv_a.rows), c_TQ = a.f32(T, to_q.rows);
  pass.projector->project(s, infer_input(s, a, x_TD, {&w.kv_a, &to_q}), {{raw_TA, w.kv_a}, {c_TQ, to_q}});
  cache_keys(s, a, raw_TA, b, cache, pass);
  const Tensor q_TH = query(s, a, c_TQ, b, pass), o_TH = a.f32(T, pass.shape.heads * pass.shape.value);
  if (pass.text_rows > 0) attend_text(s, a, o_TH, q_TH, w.kv_b, cache, pass);
  for (const PromptRows& p : pass.prompts)
    infer_prompt_attention(s, o_TH.slice_rows(p.row, p.count), q_TH.slice_rows(p.row, p.count), cache, p.pages_P,
                           p.begin, w.kv_b, pass.shape);
  pass.projector->project(s, infer_input(s, a, o_TH, {&w.o}), {{h_TD, w.o, Out::add}});
}

/// h += ffn(x).
void ffn(Stream& s, Arena& a, Tensor h_TD, const Tensor& x_TD, const FfnWeights& w, const InferPass& pass) {
  const size_t mark = a.mark();
  const int64_t T = x_TD.rows(), F = w.gate.rows;
  const Tensor g_TF = a.f32(T, F), u_TF = a.f32(T, F), p_TF = a.f32(T, F);
  pass.projector->project(s, infer_input(s, a, x_TD, {&w.gate, &w.up}), {{g_TF, w.gate}, {u_TF, w.up}});
  swiglu_forward(s, p_TF, g_TF, u_TF);
  pass.projector->project(s, infer_input(s, a, p_TF, {&w.down}), {{h_TD, w.down, Out::add}});
  a.release(mark);
}

/// choice_TK, weight_TK of the layer's router.
void route(Stream& s, Arena& a, const Tensor& choice_TK, const Tensor& weight_TK, const Tensor& x_TD,
           const MoeWeights& w, const InferPass& pass) {
  const int64_t T = x_TD.rows(), E = w.router.rows;
  const size_t mark = a.mark();
  const Tensor logits_TE = a.f32(T, E), score_TE = a.f32(T, E);
  pass.projector->project(s, infer_input(s, a, x_TD, {&w.router}), {{logits_TE, w.router}});
  route_forward(s, choice_TK, weight_TK, score_TE, logits_TE, w.bias ? w.bias.tensor() : Tensor(), pass.router);
  a.release(mark);
}

/// Announces the experts that the next block is likely to choose: by its router on what this block's FFN adds to.
void expect_experts(Stream& s, Arena& a, const Tensor& h_TD, const InferBlock& next, const InferPass& pass) {
  const MoeWeights& w = next.w->moe;
  const int64_t T = h_TD.rows(), K = pass.router.top_k;
  const size_t mark = a.mark();
  const Tensor x_TD = a.f32(T, h_TD.cols()), choice_TK = a.alloc(DType::i32, {T, K}), weight_TK = a.f32(T, K);
  infer_norm(s, a, x_TD, h_TD, next.ffn_norm, eps(pass));
  route(s, a, choice_TK, weight_TK, x_TD, w, pass);
  if (!s.is_dry()) {
    std::vector<bool> is_chosen(w.gate.size());
    std::vector<int32_t> experts;
    for (int64_t i = 0; i < T * K; ++i) {
      const int32_t e = choice_TK.ptr<int32_t>()[i / T + i % T * K];  // every row's first choice, then the second
      if (!is_chosen[static_cast<size_t>(e)]) experts.push_back(e);
      is_chosen[static_cast<size_t>(e)] = true;
    }
    pass.projector->expect_experts(w, experts);
  }
  a.release(mark);
}

/// y_RD, which may be x's memory, = the products of the rows with their experts.
void experts(Stream& s, Arena& a, const Tensor& y_RD, const InferInput& x, const MoeWeights& w, Projector& projector) {
  const int64_t R = x.x.rows(), F = w.gate[0].rows;
  const Tensor g_RF = a.f32(R, F), u_RF = a.f32(R, F), p_RF = a.f32(R, F);
  const InferInput p = reserve_input(a, p_RF, {&w.down[0]});
  while (!s.is_dry() && projector.next_experts()) {
    projector.project_experts(s, x, {{g_RF, w.gate}, {u_RF, w.up}});
    for (const RowRange& rows : projector.expert_rows()) {
      const auto part = [&](const Tensor& t) { return t.slice_rows(rows.begin, rows.count); };
      swiglu_forward(s, part(p_RF), part(g_RF), part(u_RF));
      prepare_input(s, p, rows.begin, rows.count);
    }
    projector.project_experts(s, p, {{y_RD, w.down}});
  }
}

/// y_RD from x_RD where experts lie on several ranks.
void experts_on_ranks(Stream& s, Arena& a, const Tensor& y_RD, const Tensor& x_RD, const Tensor& offsets_E1,
                      const MoeWeights& w, const InferPass& pass) {
  RowShares shares = pass.ranks->shares(w, {offsets_E1.ptr<int32_t>(), static_cast<size_t>(offsets_E1.size())});
  const Tensor x_LD = pass.ranks->own_rows(shares, x_RD);
  if (x_LD.rows() > 0) {
    pass.projector->begin_experts(w, Tensor(shares.offsets_E1.data(), DType::i32, {offsets_E1.size()}), x_LD.rows());
    experts(s, a, x_LD, infer_input(s, a, x_LD, {&w.gate[0], &w.up[0]}), w, *pass.projector);
  }
  pass.ranks->exchange(shares, y_RD, x_LD);
}

/// h += moe(x); `next` as in InferBlock.
void moe(Stream& s, Arena& a, Tensor h_TD, const Tensor& x_TD, const InferBlock& b, const InferPass& pass) {
  const MoeWeights& w = b.w->moe;
  const int64_t T = x_TD.rows(), D = x_TD.cols(), E = w.router.rows, K = pass.router.top_k;
  const Tensor weight_TK = a.f32(T, K);
  const Tensor choice_TK = a.alloc(DType::i32, {T, K}), row_of_TK = a.alloc(DType::i32, {T, K});
  const Tensor offsets_E1 = a.alloc(DType::i32, {E + 1}), slot_of_R = a.alloc(DType::i32, {T * K});
  route(s, a, choice_TK, weight_TK, x_TD, w, pass);
  moe_permute(s, offsets_E1, row_of_TK, slot_of_R, choice_TK);
  if (!s.is_dry() && *pass.route_observer) (*pass.route_observer)(choice_TK, w.router);
  if (!s.is_dry() && !pass.ranks) pass.projector->begin_experts(w, offsets_E1, T * K);
  if (b.next) expect_experts(s, a, h_TD, *b.next, pass);

  const Tensor x_RD = a.f32(T * K, D);
  moe_gather_forward(s, x_RD, x_TD, slot_of_R, K);
  const Tensor& y_RD = x_RD;  // not needed any more when they are computed
  if (pass.ranks)
    experts_on_ranks(s, a, y_RD, x_RD, offsets_E1, w, pass);
  else
    experts(s, a, y_RD, infer_input(s, a, x_RD, {&w.gate[0], &w.up[0]}), w, *pass.projector);
  moe_combine_forward(s, h_TD, y_RD, weight_TK, row_of_TK, Out::add);
  if (w.shared.gate) ffn(s, a, h_TD, x_TD, w.shared, pass);
}

}  // namespace

Projector::Work text_work(const InferPass& pass, const Matrix& kv_b, size_t element) {
  const LatentShape& a = pass.shape;
  const double keys = static_cast<double>(pass.text_keys);
  return {static_cast<double>(kv_b.rows * row_bytes(kv_b.format, kv_b.cols)) +
              keys * static_cast<double>(a.row() * static_cast<int64_t>(element)),
          2.0 * static_cast<double>(pass.text_rows * kv_b.size()) +
              2.0 * keys * static_cast<double>(a.heads * (a.row() + a.latent))};
}

void infer_norm(Stream& s, Arena& a, Tensor y, const Tensor& x, const Tensor& w, float eps_) {
  const size_t mark = a.mark();
  rmsnorm_forward(s, y, a.alloc(DType::f32, {x.rows()}), x, w, eps_);
  a.release(mark);
}

void infer_block(Stream& s, Arena& a, Tensor h_TD, const InferBlock& b, const Tensor& cache, const InferPass& pass) {
  if (b.heads) return fused_block(s, a, h_TD, b, cache, pass);
  const size_t mark = a.mark();
  const Tensor x_TD = a.f32(h_TD.rows(), h_TD.cols());
  const size_t inner = a.mark();
  infer_norm(s, a, x_TD, h_TD, b.attn_norm, eps(pass));
  attention(s, a, h_TD, x_TD, b, cache, pass);
  a.release(inner);
  infer_norm(s, a, x_TD, h_TD, b.ffn_norm, eps(pass));
  if (b.w->is_moe) {
    moe(s, a, h_TD, x_TD, b, pass);
  } else {
    if (b.next) expect_experts(s, a, h_TD, *b.next, pass);
    ffn(s, a, h_TD, x_TD, b.w->dense, pass);
  }
  a.release(mark);
}

void infer_mtp(Stream& s, Arena& a, Tensor z_TD, const Tensor& hidden_TD, const Tensor& e_TD, const InferMtp& m,
               const Tensor& cache, const InferPass& pass) {
  const size_t mark = a.mark();
  const int64_t T = hidden_TD.rows(), D = hidden_TD.cols();
  const Tensor eh_T2D = a.f32(T, 2 * D), x_TD = a.f32(T, D);
  infer_norm(s, a, eh_T2D.slice_cols(0, D), e_TD, m.enorm, eps(pass));
  infer_norm(s, a, eh_T2D.slice_cols(D, D), hidden_TD, m.hnorm, eps(pass));
  pass.projector->project(s, infer_input(s, a, eh_T2D, {&m.w->eh_proj}), {{x_TD, m.w->eh_proj}});
  infer_block(s, a, x_TD, m.block, cache, pass);
  infer_norm(s, a, z_TD, x_TD, m.head_norm, eps(pass));
  a.release(mark);
}

}  // namespace sluice
