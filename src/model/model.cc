#include "model/model.h"

#include "base/transfer.h"
#include "model/head.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/norm.h"

namespace sluice {
namespace {

/// Everything a pass keeps between forward and backward.
struct PassSaved {
  const ModelBatch& batch;
  const PassOptions& options;
  std::vector<BlockSaved> layers;
  std::vector<MtpSaved> mtp;
  Tensor norm_r_T;
  PassContext ctx = {};

  PassSaved(const ModelBatch& b, const PassOptions& o) : batch(b), options(o) {}
};

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

PassResult forward(Stream& s, Arena& a, const Model& m, const Tensor& counts_LE, PassSaved& k) {
  const ModelBatch& b = k.batch;
  const ModelWeights& w = m.weights;
  const int64_t T = b.batch * b.tokens, D = m.config.hidden_size;
  const DType dtype = activation_dtype(m.precision);
  PassResult r;
  k.ctx = context(s, a, m, b, k.options);
  k.layers.resize(w.layers.size());
  k.mtp.resize(w.mtp.size());
  int64_t router = 0;

  r.hidden.push_back(a.alloc(dtype, {T, D}));
  embedding_forward(s, r.hidden[0], b.ids_T, w.embed);
  for (size_t l = 0; l < w.layers.size(); ++l) {
    r.hidden.push_back(a.alloc(dtype, {T, D}));
    block_forward(s, a, r.hidden[l + 1], r.hidden[l], w.layers[l], k.layers[l], k.ctx,
                  counts_row(counts_LE, router, w.layers[l].is_moe));
    if (w.layers[l].is_moe) r.balance_loss.push_back(k.layers[l].moe.balance_loss_B);
  }
  r.normed_TD = a.alloc(dtype, {T, D});
  k.norm_r_T = a.alloc(DType::f32, {T});
  rmsnorm_forward(s, r.normed_TD, k.norm_r_T, r.hidden.back(), w.norm.tensor(),
                  static_cast<float>(m.config.rms_norm_eps));

  Tensor previous = r.normed_TD;
  for (size_t i = 0; i < w.mtp.size(); ++i) {
    const int64_t shift = static_cast<int64_t>(i) + 1, S = b.tokens - shift;
    const PassContext ctx = shorter_context(s, a, k.ctx, shift);
    const Tensor h = a.alloc(dtype, {b.batch * S, D});
    for (int64_t n = 0; n < b.batch; ++n) copy(s, h.slice_rows(n * S, S), previous.slice_rows(n * (S + 1), S));
    const Tensor e = a.alloc(dtype, {b.batch * S, D});
    embedding_forward(s, e, shifted_ids(s, a, b, shift), w.embed);
    mtp_forward(s, a, h, e, w.mtp[i], k.mtp[i], ctx, counts_row(counts_LE, router, w.mtp[i].block.is_moe));
    if (w.mtp[i].block.is_moe) r.balance_loss.push_back(k.mtp[i].block.moe.balance_loss_B);
    r.mtp_normed.push_back(k.mtp[i].z_TD);
    previous = k.mtp[i].y_TD;
  }
  return r;
}

/// Losses and gradients of the MTP modules, last first; adds the gradient of the main model's normed hidden state.
void mtp_backward_all(Stream& s, Arena& a, Tensor dnormed_TD, const Model& m, const ModelWeights& grad, PassSaved& k,
                      PassResult& r) {
  const ModelBatch& b = k.batch;
  const size_t modules = m.weights.mtp.size();
  const int64_t D = m.config.hidden_size;
  const DType dtype = dnormed_TD.dtype;
  const float scale = k.options.loss_scale * k.options.mtp_weight / static_cast<float>(std::max<size_t>(modules, 1));
  r.mtp_loss.resize(modules);
  Tensor dy;  // gradient of a module's hidden output from the module after it
  for (size_t i = modules; i-- > 0;) {
    const int64_t S = b.tokens - static_cast<int64_t>(i) - 1, T = b.batch * S;
    r.mtp_loss[i] = a.alloc(DType::f32, {T});
    const MtpGradients d{a.alloc(dtype, {T, D}), a.alloc(dtype, {T, D}), a.alloc(dtype, {T, D}), dy};
    head_loss_backward(s, a, d.dz_TD, {r.mtp_normed[i], b.mtp_target[i], r.mtp_loss[i]}, m.weights.head, grad.head,
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

}  // namespace

Model allocate_model(const HfConfig& c, int64_t mtp_modules, Precision precision, const Device& device) {
  Model m{c, precision, weight_shapes(c, mtp_modules), Arena(model_bytes(c, mtp_modules, precision), device)};
  for (const Param& p : parameters(m.weights)) allocate(*p.matrix, working_format(p.kind, precision), m.memory);
  return m;
}

Model allocate_f32_like(const Model& model) {
  return allocate_model(model.config, static_cast<int64_t>(model.weights.mtp.size()), Precision::f32,
                        model.memory.device());
}

void transfer_tree(Stream& s, ModelWeights& to, ModelWeights& from,
                   void (*transfer)(Stream& s, const Tensor& to, const Tensor& from)) {
  const std::vector<Param> source = parameters(from), out = parameters(to);
  const auto scales = [](const Matrix& m) { return Tensor(m.scales, {m.scale_rows(), m.scale_cols()}); };
  for (size_t i = 0; i < source.size(); ++i) {
    const Matrix &x = *source[i].matrix, &y = *out[i].matrix;
    check(x.format == y.format, "transfer_tree: expected equal formats");
    transfer(s, y.tensor(), x.tensor());
    if (y.scales) transfer(s, scales(y), scales(x));
  }
}

Model upload_model(Stream& s, Model& host) {
  Model m = allocate_model(host.config, static_cast<int64_t>(host.weights.mtp.size()), host.precision, s.device());
  transfer_tree(s, m.weights, host.weights, upload);
  return m;
}

Model download_model(Stream& s, Model& device) {
  Model m = allocate_model(device.config, static_cast<int64_t>(device.weights.mtp.size()), device.precision);
  transfer_tree(s, m.weights, device.weights, download);
  return m;
}

size_t model_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision) {
  ModelWeights w = weight_shapes(c, mtp_modules);
  Arena arena = Arena::counting();
  for (const Param& p : parameters(w)) allocate(*p.matrix, working_format(p.kind, precision), arena);
  return arena.peak_bytes();
}

int64_t num_routers(const ModelWeights& w) {
  int64_t n = 0;
  for (const BlockWeights& l : w.layers) n += l.is_moe;
  for (const MtpWeights& l : w.mtp) n += l.block.is_moe;
  return n;
}

std::vector<Matrix*> router_biases(ModelWeights& w) {
  std::vector<Matrix*> list;
  for (BlockWeights& l : w.layers)
    if (l.is_moe) list.push_back(&l.moe.bias);
  for (MtpWeights& l : w.mtp)
    if (l.block.is_moe) list.push_back(&l.block.moe.bias);
  return list;
}

PassResult model_forward(Stream& s, Arena& a, const Model& m, const ModelBatch& batch, const PassOptions& options,
                         const Tensor& counts_LE) {
  PassSaved k(batch, options);
  return forward(s, a, m, counts_LE, k);
}

PassResult model_forward_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, const ModelBatch& b,
                                  const PassOptions& o, const Tensor& counts_LE) {
  PassSaved k(b, o);
  PassResult r = forward(s, a, m, counts_LE, k);
  const int64_t T = b.batch * b.tokens, D = m.config.hidden_size;
  const DType dtype = r.normed_TD.dtype;
  r.loss_T = a.alloc(DType::f32, {T});
  const Tensor dnormed = a.alloc(dtype, {T, D});
  head_loss_backward(s, a, dnormed, {r.normed_TD, b.target_T, r.loss_T}, m.weights.head, grad.head, o.loss_scale);
  mtp_backward_all(s, a, dnormed, m, grad, k, r);

  Tensor dh = a.alloc(dtype, {T, D}), dh_next = a.alloc(dtype, {T, D});
  rmsnorm_backward_input(s, dh, dnormed, r.hidden.back(), m.weights.norm.tensor(), k.norm_r_T);
  rmsnorm_backward_weight(s, grad.norm.tensor(), dnormed, r.hidden.back(), k.norm_r_T);
  for (size_t l = k.layers.size(); l-- > 0;) {
    block_backward(s, a, dh_next, dh, m.weights.layers[l], grad.layers[l], k.layers[l], k.ctx);
    std::swap(dh, dh_next);
  }
  embedding_backward_weight(s, grad.embed, dh, b.ids_T);
  return r;
}

void model_logits(Stream& s, Tensor logits, const Tensor& h_TD, const Model& m) {
  linear_forward(s, logits, h_TD, m.weights.head);
}

}  // namespace sluice
