#include "model/stage.h"

#include <utility>

#include "base/transfer.h"
#include "model/head.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/norm.h"

namespace sluice {
namespace {

/// The model's table with at least `tokens` rows.
Tensor rope_table(Stream& s, const Model& m, int64_t tokens) {
  const int64_t width = m.config.qk_rope_head_dim;
  if (s.is_dry()) return Arena::counting().f32(tokens, width);  // not memory of the pass
  RopeTable& kept = *m.rope;
  if (kept.rows && kept.rows.rows() >= tokens) return kept.rows;
  kept.memory = Arena(static_cast<size_t>(tokens * width) * sizeof(float) + 64, s.device());
  kept.rows = kept.memory.f32(tokens, width);
  std::vector<float> table(static_cast<size_t>(tokens * width));
  const Tensor host(table.data(), {tokens, width});
  fill_rope_table(m.config, host);
  upload(s, kept.rows, host);
  return kept.rows;
}

PassContext context(Stream& s, Arena& a, const Model& m, const ModelBatch& b, const PassOptions& o) {
  const BalanceOptions balance{o.balance_alpha * o.balance_scale / static_cast<float>(b.batch), o.routed_counts};
  PassContext ctx{&m.config, b.batch, b.tokens, {}, b.first_T, {}, balance, m.exchange, o.gradients, o.recompute};
  ctx.rope_table = rope_table(s, m, b.tokens);
  ctx.position_T = a.alloc(DType::i32, {b.batch * b.tokens});
  if (s.is_dry()) return ctx;
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

constexpr int kPhases = 4;  // of a block

int64_t num_layers(const StageRange& range) { return range.end - range.begin; }
int64_t num_blocks(const Model& m, const StageRange& range) {
  return num_layers(range) + (range.is_last(m) ? static_cast<int64_t>(m.weights.mtp.size()) : 0);
}

/// Block i of a stage: weights (or gradients), what it keeps, its context.
const BlockWeights& weights_of(const ModelWeights& w, const StageRange& range, int64_t i) {
  return i < num_layers(range) ? w.layers[static_cast<size_t>(range.begin + i)]
                               : w.mtp[static_cast<size_t>(i - num_layers(range))].block;
}
const BlockSaved& saved(const StageSaved& k, int64_t i) {
  const size_t at = static_cast<size_t>(i);
  return at < k.layers.size() ? k.layers[at] : k.mtp[at - k.layers.size()].block;
}
BlockSaved& saved(StageSaved& k, int64_t i) { return const_cast<BlockSaved&>(saved(std::as_const(k), i)); }
const PassContext& context_of(const StageSaved& k, int64_t i) {
  const size_t at = static_cast<size_t>(i);
  return at < k.layers.size() ? k.ctx : k.mtp_ctx[at - k.layers.size()];
}

/// Where block i counts.
Tensor counts_row(const Tensor& counts_LE, const Model& m, const StageRange& range, int64_t i) {
  if (!counts_LE || !weights_of(m.weights, range, i).is_moe) return {};
  int64_t router = 0;
  for (int64_t l = 0; l < range.begin + i; ++l) router += weights_of(m.weights, {0, range.end}, l).is_moe;
  return Tensor(counts_LE.at(router), DType::i64, {counts_LE.cols()});
}

void begin_forward(Stream& s, Arena& a, const Model& m, const StageRange& range, StageSaved& k) {
  k.ctx = context(s, a, m, k.batch, k.options);
  k.layers.resize(static_cast<size_t>(num_layers(range)));
  if (range.is_last(m)) k.mtp.resize(m.weights.mtp.size());
  if (!range.is_first()) return;
  k.hidden.push_back(a.alloc(activation_dtype(m.precision), {k.batch.batch * k.batch.tokens, m.config.hidden_size}));
  embedding_forward(s, k.hidden[0], k.batch.ids_T, m.weights.embed);
}

void norm_forward(Stream& s, Arena& a, const Model& m, StageSaved& k) {
  const Tensor& h = k.hidden.back();
  k.normed_TD = a.alloc(h.dtype, {h.rows(), h.cols()});
  k.norm_r_T = a.alloc(DType::f32, {h.rows()});
  rmsnorm_forward(s, k.normed_TD, k.norm_r_T, h, m.weights.norm.tensor(), static_cast<float>(m.config.rms_norm_eps));
}

/// Input of the block of MTP module i, from the hidden states of the module before it.
void enter_mtp(Stream& s, Arena& a, const Model& m, StageSaved& k, size_t i) {
  const ModelBatch& b = k.batch;
  const int64_t shift = static_cast<int64_t>(i) + 1, S = b.tokens - shift, D = m.config.hidden_size;
  const Tensor& previous = i == 0 ? k.normed_TD : k.mtp[i - 1].y_TD;
  k.mtp_ctx.push_back(shorter_context(s, a, k.ctx, shift));
  const Tensor h = a.alloc(previous.dtype, {b.batch * S, D});
  for (int64_t n = 0; n < b.batch; ++n) copy(s, h.slice_rows(n * S, S), previous.slice_rows(n * (S + 1), S));
  const Tensor e = a.alloc(previous.dtype, {b.batch * S, D});
  embedding_forward(s, e, shifted_ids(s, a, b, shift), m.weights.embed);
  mtp_forward_begin(s, a, h, e, m.weights.mtp[i], k.mtp[i], k.mtp_ctx[i]);
}

void forward_attention(Stream& s, Arena& a, const Model& m, const StageRange& range, const Tensor& counts_LE,
                       StageSaved& k, int64_t i) {
  const BlockWeights& w = weights_of(m.weights, range, i);
  const Tensor counts_E = counts_row(counts_LE, m, range, i);
  if (i < num_layers(range)) {
    const Tensor h0 = k.hidden.back();
    k.hidden.push_back(a.alloc(h0.dtype, {h0.rows(), h0.cols()}));
    return block_forward_attention(s, a, k.hidden.back(), h0, w, saved(k, i), k.ctx, counts_E);
  }
  const size_t module = static_cast<size_t>(i - num_layers(range));
  enter_mtp(s, a, m, k, module);
  block_forward_attention(s, a, k.mtp[module].y_TD, k.mtp[module].x_TD, w, saved(k, i), context_of(k, i), counts_E);
}

void forward_combine(Stream& s, Arena& a, const Model& m, const StageRange& range, StageSaved& k, int64_t i) {
  block_forward_combine(s, a, weights_of(m.weights, range, i), saved(k, i), context_of(k, i));
  if (i == num_layers(range) - 1 && range.is_last(m)) norm_forward(s, a, m, k);
  if (i < num_layers(range)) return;
  const size_t module = static_cast<size_t>(i - num_layers(range));
  mtp_forward_end(s, m.weights.mtp[module], k.mtp[module], k.mtp_ctx[module]);
}

/// Losses of the main model, and the gradient of its normed hidden states.
void begin_losses(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, StageSaved& k) {
  k.loss_T = a.alloc(DType::f32, {k.normed_TD.rows()});
  k.mtp_loss.resize(k.mtp.size());
  k.dnormed_TD = a.alloc(k.normed_TD.dtype, {k.normed_TD.rows(), k.normed_TD.cols()});
  head_loss_backward(s, a, k.dnormed_TD, {k.normed_TD, k.batch.target_T, k.loss_T}, m.weights.head, grad.head,
                     k.options.loss_scale, k.options.gradients);
}

/// Losses of MTP module i, and the gradient of its block's output.
void enter_mtp_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, StageSaved& k, size_t i) {
  const int64_t T = k.mtp[i].z_TD.rows(), D = k.mtp[i].z_TD.cols();
  const DType dtype = k.mtp[i].z_TD.dtype;
  k.mtp_loss[i] = a.alloc(DType::f32, {T});
  const Tensor from_following = i + 1 < k.mtp.size() ? k.dmtp.dy_TD : Tensor();
  k.dmtp = {a.alloc(dtype, {T, D}), a.alloc(dtype, {T, D}), a.alloc(dtype, {T, D}), from_following};
  const float scale = k.options.loss_scale * k.options.mtp_weight / static_cast<float>(k.mtp.size());
  head_loss_backward(s, a, k.dmtp.dz_TD, {k.mtp[i].z_TD, k.batch.mtp_target[i], k.mtp_loss[i]}, m.weights.head,
                     grad.head, scale, Out::add);
  k.dh_TD = mtp_backward_begin(s, a, k.dmtp, m.weights.mtp[i], grad.mtp[i], k.mtp[i]);
  k.dinput_TD = a.alloc(dtype, {T, D});
}

/// Hands the gradient on: to the module before, or to the main model.
void leave_mtp_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, StageSaved& k, size_t i) {
  const ModelBatch& b = k.batch;
  const int64_t shift = static_cast<int64_t>(i) + 1, S = b.tokens - shift;
  mtp_backward_end(s, a, k.dmtp, k.dinput_TD, m.weights.mtp[i], grad.mtp[i], k.mtp[i], k.options.gradients);
  embedding_backward_weight(s, grad.embed, k.dmtp.de_TD, shifted_ids(s, a, b, shift));
  if (i > 0) {
    k.dmtp.dy_TD = a.alloc(k.dmtp.dh_TD.dtype, {b.batch * (S + 1), k.dmtp.dh_TD.cols()});
    zero(s, k.dmtp.dy_TD);
  }
  add_first_positions(s, i > 0 ? k.dmtp.dy_TD : k.dnormed_TD, k.dmtp.dh_TD, b.batch, S + 1, S);
  k.dinput_TD = {};
}

/// k.dh_TD = gradient of the output of block i.
void enter_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, const StageRange& range,
                    StageSaved& k, int64_t i) {
  if (range.is_last(m) && i == num_blocks(m, range) - 1) begin_losses(s, a, m, grad, k);
  if (i >= num_layers(range)) return enter_mtp_backward(s, a, m, grad, k, static_cast<size_t>(i - num_layers(range)));
  if (range.is_last(m) && i == num_layers(range) - 1) {
    const Tensor& h = k.hidden.back();
    k.dh_TD = a.alloc(h.dtype, {h.rows(), h.cols()});
    rmsnorm_backward_input(s, k.dh_TD, k.dnormed_TD, h, m.weights.norm.tensor(), k.norm_r_T);
    rmsnorm_backward_weight(s, grad.norm.tensor(), k.dnormed_TD, h, k.norm_r_T);
  }
  if (!k.dinput_TD) k.dinput_TD = a.alloc(k.dh_TD.dtype, {k.dh_TD.rows(), k.dh_TD.cols()});
}

/// k.dh_TD = gradient of the input of block i; of a layer, k.dinput_TD = what it was before.
void leave_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, const StageRange& range,
                    StageSaved& k, int64_t i) {
  if (i >= num_layers(range)) return leave_mtp_backward(s, a, m, grad, k, static_cast<size_t>(i - num_layers(range)));
  std::swap(k.dh_TD, k.dinput_TD);
  if (range.is_first() && i == 0) embedding_backward_weight(s, grad.embed, k.dh_TD, k.batch.ids_T);
}

}  // namespace

int stage_forward_phases(const Model& m, const StageRange& range) {
  return kPhases * static_cast<int>(num_blocks(m, range));
}

int stage_backward_phases(const Model& m, const StageRange& range) { return 1 + stage_forward_phases(m, range); }

void stage_forward_phase(Stream& s, Arena& a, const Model& m, const StageRange& range, const Tensor& counts_LE,
                         StageSaved& k, int phase) {
  if (phase == 0) begin_forward(s, a, m, range, k);
  const int64_t i = phase / kPhases;
  switch (phase % kPhases) {
    case 0:
      return forward_attention(s, a, m, range, counts_LE, k, i);
    case 1:
      return block_forward_dispatch(s, a, weights_of(m.weights, range, i), saved(k, i), context_of(k, i));
    case 2:
      return block_forward_experts(s, a, weights_of(m.weights, range, i), saved(k, i), context_of(k, i));
    default:
      return forward_combine(s, a, m, range, k, i);
  }
}

void stage_await_forward(const StageSaved& k, int phase) {
  if (phase % kPhases != 0) saved(k, phase / kPhases).moe.wait();
}

void stage_backward_phase(Stream& s, Arena& a, const Model& m, const Backward& backward, const StageRange& range,
                          StageSaved& k, int phase) {
  const ModelWeights& grad = backward.grad;
  const int64_t last = num_blocks(m, range) - 1;
  const auto enter = [&](int64_t i) {
    enter_backward(s, a, m, grad, range, k, i);
    block_backward_combine(s, a, k.dh_TD, weights_of(m.weights, range, i), saved(k, i), context_of(k, i));
  };
  if (phase == 0) return enter(last);
  const int64_t i = last - (phase - 1) / kPhases;
  const BlockWeights &w = weights_of(m.weights, range, i), &g = weights_of(grad, range, i);
  const PassContext& ctx = context_of(k, i);
  const bool has_weights = backward.weights == Weights::now || i >= num_layers(range);
  switch ((phase - 1) % kPhases) {
    case 0:
      return block_backward_experts(s, a, w, g, saved(k, i), ctx);
    case 1:
      if (has_weights) block_backward_weight_experts(s, w, g, saved(k, i), ctx);
      return;
    case 2:
      block_backward_attention(s, a, k.dinput_TD, w, saved(k, i), ctx);
      leave_backward(s, a, m, grad, range, k, i);
      k.dinput_TD = {};
      if (i > 0) enter(i - 1);
      return;
    default:
      if (has_weights) block_backward_weight_attention(s, w, g, saved(k, i), k.options.gradients);
  }
}

void stage_await_backward(const StageSaved& k, int phase) {
  if (phase % 2 == 0) return;  // the first, and gradients of weights
  const int64_t last = static_cast<int64_t>(k.layers.size() + k.mtp.size()) - 1;
  saved(k, last - (phase - 1) / kPhases).moe.wait();
}

void stage_backward_weight(Stream& s, const Model& m, const ModelWeights& grad, const StageRange& range,
                           const StageSaved& k) {
  for (int64_t i = num_layers(range); i-- > 0;) {
    const BlockWeights &w = weights_of(m.weights, range, i), &g = weights_of(grad, range, i);
    block_backward_weight_experts(s, w, g, saved(k, i), k.ctx);
    block_backward_weight_attention(s, w, g, saved(k, i), k.options.gradients);
  }
}

void model_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, StageSaved& k) {
  const StageRange range{0, static_cast<int64_t>(m.weights.layers.size())};
  for (int64_t i = num_blocks(m, range); i-- > 0;) {
    const BlockWeights &w = weights_of(m.weights, range, i), &g = weights_of(grad, range, i);
    const PassContext& ctx = context_of(k, i);
    enter_backward(s, a, m, grad, range, k, i);
    const size_t mark = a.mark();
    block_backward_combine(s, a, k.dh_TD, w, saved(k, i), ctx);
    block_backward_experts(s, a, w, g, saved(k, i), ctx);
    block_backward_weight_experts(s, w, g, saved(k, i), ctx);
    block_backward_attention(s, a, k.dinput_TD, w, saved(k, i), ctx);
    block_backward_weight_attention(s, w, g, saved(k, i), k.options.gradients);
    a.release(mark);
    leave_backward(s, a, m, grad, range, k, i);
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
