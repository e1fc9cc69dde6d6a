#include "model/stage.h"

#include "base/transfer.h"
#include "model/head.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/norm.h"

namespace sluice {
namespace {

PassContext context(Stream& s, Arena& a, const Model& m, const ModelBatch& b, const PassOptions& o) {
  const BalanceOptions balance{o.balance_alpha * o.balance_scale / static_cast<float>(b.batch), o.routed_counts};
  PassContext ctx{&m.config, b.batch, b.tokens, {}, b.first_T, {}, balance, m.exchange, o.recompute};
  ctx.rope_table = a.f32(b.tokens, m.config.qk_rope_head_dim);
  ctx.position_T = a.alloc(DType::i32, {b.batch * b.tokens});
  if (s.is_dry()) return ctx;
  std::vector<float> table(static_cast<size_t>(ctx.rope_table.size()));
  const Tensor host_table(table.data(), {b.tokens, m.config.qk_rope_head_dim});
  fill_rope_table(m.config, host_table);
  upload(s, ctx.rope_table, host_table);
  std::vector<int32_t> position(static_cast<size_t>(b.batch * b.tokens));
  for (int64_t t = 0; t < b.batch * b.tokens; ++t)
    position[static_cast<size_t>(t)] = static_cast<int32_t>(t % b.tokens);
  upload(s, ctx.position_T, Tensor(position.data(), DType::i32, {b.batch * b.tokens}));
  return ctx;
}

/// Elements [first, first + n) of each sequence of `tokens`, from one i32 per token.
Tensor part_of_sequences(Stream& s, Arena& a, const Tensor& all_T, int64_t tokens, int64_t first, int64_t n) {
  const int64_t batch = all_T.size() / tokens;
  const Tensor part = a.alloc(DType::i32, {batch * n});
  copy(s, part.reshape({batch, n}), all_T.reshape({batch, tokens}).slice_cols(first, n));
  return part;
}

/// The context of MTP module k: `shorter` positions fewer per sequence.
PassContext shorter_context(Stream& s, Arena& a, const PassContext& ctx, int64_t shorter) {
  PassContext c = ctx;
  c.tokens -= shorter;
  c.position_T = part_of_sequences(s, a, ctx.position_T, ctx.tokens, 0, c.tokens);
  if (ctx.first_T) c.first_T = part_of_sequences(s, a, ctx.first_T, ctx.tokens, 0, c.tokens);
  return c;
}

/// y += x, where every sequence of y has `y_tokens` rows and x those of its first `x_tokens`.
void add_first_positions(Stream& s, Tensor y, const Tensor& x, int64_t batch, int64_t y_tokens, int64_t x_tokens) {
  for (int64_t b = 0; b < batch; ++b) {
    const Tensor rows = y.slice_rows(b * y_tokens, x_tokens);
    add(s, rows, rows, x.slice_rows(b * x_tokens, x_tokens));
  }
}

Tensor shifted_ids(Stream& s, Arena& a, const ModelBatch& b, int64_t shift) {
  return part_of_sequences(s, a, b.ids_T, b.tokens, shift, b.tokens - shift);
}

Tensor counts_row(const Tensor& counts_LE, int64_t& layer, bool is_moe) {
  if (!is_moe || !counts_LE) return {};
  return Tensor(counts_LE.at(layer++), DType::i64, {counts_LE.cols()});
}

/// Row of the first router of the layers from `begin` on.
int64_t routers_before(const ModelWeights& w, int64_t begin) {
  int64_t n = 0;
  for (int64_t l = 0; l < begin; ++l) n += w.layers[static_cast<size_t>(l)].is_moe;
  return n;
}

/// The last norm and the MTP modules.
void end_forward(Stream& s, Arena& a, const Model& m, const Tensor& counts_LE, int64_t router, StageSaved& k) {
  const ModelBatch& b = k.batch;
  const ModelWeights& w = m.weights;
  const int64_t T = b.batch * b.tokens, D = m.config.hidden_size;
  const DType dtype = activation_dtype(m.precision);
  k.normed_TD = a.alloc(dtype, {T, D});
  k.norm_r_T = a.alloc(DType::f32, {T});
  rmsnorm_forward(s, k.normed_TD, k.norm_r_T, k.hidden.back(), w.norm.tensor(),
                  static_cast<float>(m.config.rms_norm_eps));
  k.mtp.resize(w.mtp.size());
  Tensor previous = k.normed_TD;
  for (size_t i = 0; i < w.mtp.size(); ++i) {
    const int64_t shift = static_cast<int64_t>(i) + 1, S = b.tokens - shift;
    const PassContext ctx = shorter_context(s, a, k.ctx, shift);
    const Tensor h = a.alloc(dtype, {b.batch * S, D});
    for (int64_t n = 0; n < b.batch; ++n) copy(s, h.slice_rows(n * S, S), previous.slice_rows(n * (S + 1), S));
    const Tensor e = a.alloc(dtype, {b.batch * S, D});
    embedding_forward(s, e, shifted_ids(s, a, b, shift), w.embed);
    mtp_forward(s, a, h, e, w.mtp[i], k.mtp[i], ctx, counts_row(counts_LE, router, w.mtp[i].block.is_moe));
    previous = k.mtp[i].y_TD;
  }
}

/// Losses and gradients of the MTP modules, last first; adds the gradient of the main model's normed hidden state.
void mtp_backward_all(Stream& s, Arena& a, Tensor dnormed_TD, const Model& m, const ModelWeights& grad, StageSaved& k) {
  const ModelBatch& b = k.batch;
  const size_t modules = m.weights.mtp.size();
  const int64_t D = m.config.hidden_size;
  const DType dtype = dnormed_TD.dtype;
  const float scale = k.options.loss_scale * k.options.mtp_weight / static_cast<float>(std::max<size_t>(modules, 1));
  k.mtp_loss.resize(modules);
  Tensor dy;  // gradient of a module's hidden output from the module after it
  for (size_t i = modules; i-- > 0;) {
    const int64_t S = b.tokens - static_cast<int64_t>(i) - 1, T = b.batch * S;
    k.mtp_loss[i] = a.alloc(DType::f32, {T});
    const MtpGradients d{a.alloc(dtype, {T, D}), a.alloc(dtype, {T, D}), a.alloc(dtype, {T, D}), dy};
    head_loss_backward(s, a, d.dz_TD, {k.mtp[i].z_TD, b.mtp_target[i], k.mtp_loss[i]}, m.weights.head, grad.head,
                       scale);
    const int64_t shift = static_cast<int64_t>(i) + 1;
    mtp_backward(s, a, d, m.weights.mtp[i], grad.mtp[i], k.mtp[i], shorter_context(s, a, k.ctx, shift));
    embedding_backward_weight(s, grad.embed, d.de_TD, shifted_ids(s, a, b, shift));
    if (i > 0) {
      dy = a.alloc(dtype, {b.batch * (S + 1), D});
      zero(s, dy);
    }
    add_first_positions(s, i > 0 ? dy : dnormed_TD, d.dh_TD, b.batch, S + 1, S);
  }
}

/// Losses, and the gradient of the last layer's output.
Tensor end_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, StageSaved& k) {
  const int64_t T = k.batch.batch * k.batch.tokens, D = m.config.hidden_size;
  const DType dtype = k.normed_TD.dtype;
  k.loss_T = a.alloc(DType::f32, {T});
  const Tensor dnormed = a.alloc(dtype, {T, D}), dh = a.alloc(dtype, {T, D});
  head_loss_backward(s, a, dnormed, {k.normed_TD, k.batch.target_T, k.loss_T}, m.weights.head, grad.head,
                     k.options.loss_scale);
  mtp_backward_all(s, a, dnormed, m, grad, k);
  rmsnorm_backward_input(s, dh, dnormed, k.hidden.back(), m.weights.norm.tensor(), k.norm_r_T);
  rmsnorm_backward_weight(s, grad.norm.tensor(), dnormed, k.hidden.back(), k.norm_r_T);
  return dh;
}

}  // namespace

void stage_forward(Stream& s, Arena& a, const Model& m, const StageRange& range, const Tensor& counts_LE,
                   StageSaved& k) {
  const ModelWeights& w = m.weights;
  const int64_t T = k.batch.batch * k.batch.tokens, D = m.config.hidden_size;
  const DType dtype = activation_dtype(m.precision);
  k.ctx = context(s, a, m, k.batch, k.options);
  k.layers.resize(static_cast<size_t>(range.end - range.begin));
  int64_t router = routers_before(w, range.begin);
  if (range.is_first()) {
    k.hidden.push_back(a.alloc(dtype, {T, D}));
    embedding_forward(s, k.hidden[0], k.batch.ids_T, w.embed);
  }
  for (size_t i = 0; i < k.layers.size(); ++i) {
    const BlockWeights& layer = w.layers[static_cast<size_t>(range.begin) + i];
    k.hidden.push_back(a.alloc(dtype, {T, D}));
    block_forward(s, a, k.hidden[i + 1], k.hidden[i], layer, k.layers[i], k.ctx,
                  counts_row(counts_LE, router, layer.is_moe));
  }
  if (range.is_last(m)) end_forward(s, a, m, counts_LE, router, k);
}

Tensor stage_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, const StageRange& range,
                      Tensor dh_TD, Weights weights, StageSaved& k) {
  Tensor dh = range.is_last(m) ? end_backward(s, a, m, grad, k) : dh_TD;
  Tensor dh_next = a.alloc(dh.dtype, {dh.rows(), dh.cols()});
  for (size_t i = k.layers.size(); i-- > 0;) {
    const size_t l = static_cast<size_t>(range.begin) + i;
    if (weights == Weights::now) {
      block_backward(s, a, dh_next, dh, m.weights.layers[l], grad.layers[l], k.layers[i], k.ctx);
      std::swap(dh, dh_next);
    } else {  // dh is an input of gradients of weights to come
      block_backward_input(s, a, dh_next, dh, m.weights.layers[l], k.layers[i], k.ctx);
      dh = dh_next;
      if (i > 0) dh_next = a.alloc(dh.dtype, {dh.rows(), dh.cols()});
    }
  }
  if (range.is_first()) embedding_backward_weight(s, grad.embed, dh, k.batch.ids_T);
  return dh;
}

void stage_backward_weight(Stream& s, const Model& m, const ModelWeights& grad, const StageRange& range,
                           const StageSaved& k) {
  for (size_t i = k.layers.size(); i-- > 0;) {
    const size_t l = static_cast<size_t>(range.begin) + i;
    block_backward_weight(s, m.weights.layers[l], grad.layers[l], k.layers[i], k.ctx);
  }
}

std::vector<Tensor> balance_losses(const StageSaved& k) {
  std::vector<Tensor> losses;
  for (const BlockSaved& l : k.layers)
    if (l.moe.balance_loss_B) losses.push_back(l.moe.balance_loss_B);
  for (const MtpSaved& l : k.mtp)
    if (l.block.moe.balance_loss_B) losses.push_back(l.block.moe.balance_loss_B);
  return losses;
}

}  // namespace sluice
