#include "model/model.h"

#include "base/transfer.h"
#include "model/stage.h"
#include "ops/linear.h"

namespace sluice {
namespace {

void forward(Stream& s, Arena& a, const Model& m, const Tensor& counts_LE, StageSaved& k) {
  const StageRange all{0, static_cast<int64_t>(m.weights.layers.size())};
  for (int phase = 0; phase < stage_forward_phases(m, all); ++phase)
    stage_forward_phase(s, a, m, all, counts_LE, k, phase);
}

PassResult result_of(const StageSaved& k) {
  PassResult r;
  r.hidden = k.hidden;
  r.normed_TD = k.normed_TD;
  for (const MtpSaved& mtp : k.mtp) r.mtp_normed.push_back(mtp.z_TD);
  r.loss_T = k.loss_T;
  r.mtp_loss = k.mtp_loss;
  r.balance_loss = balance_losses(k);
  return r;
}

size_t bytes_of(ModelWeights shapes, Precision precision) {
  Arena arena = Arena::counting();
  allocate_all(shapes, precision, arena);
  return arena.peak_bytes();
}

Model allocate_shapes(const HfConfig& c, const ModelWeights& shapes, Precision precision, const Device& device) {
  Model m{c, precision, shapes, Arena(bytes_of(shapes, precision), device)};
  allocate_all(m.weights, precision, m.memory);
  return m;
}

}  // namespace

Model allocate_model(const HfConfig& c, int64_t mtp_modules, Precision precision, const Device& device) {
  return allocate_shapes(c, weight_shapes(c, mtp_modules), precision, device);
}

Model allocate_like(const Model& model, Precision precision, const Device& device) {
  return allocate_shapes(model.config, shapes_of(model.weights), precision, device);
}

Model allocate_f32_like(const Model& model) { return allocate_like(model, Precision::f32, model.memory.device()); }

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
  Model m = allocate_like(host, host.precision, s.device());
  transfer_tree(s, m.weights, host.weights, upload);
  return m;
}

Model download_model(Stream& s, Model& device) {
  Model m = allocate_like(device, device.precision, {});
  transfer_tree(s, m.weights, device.weights, download);
  return m;
}

size_t model_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision) {
  return bytes_of(weight_shapes(c, mtp_modules), precision);
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
  StageSaved k{batch, options};
  forward(s, a, m, counts_LE, k);
  return result_of(k);
}

PassResult model_forward_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad, const ModelBatch& b,
                                  const PassOptions& o, const Tensor& counts_LE) {
  StageSaved k{b, o};
  forward(s, a, m, counts_LE, k);
  model_backward(s, a, m, grad, k);
  return result_of(k);
}

void model_logits(Stream& s, Tensor logits, const Tensor& h_TD, const Model& m) {
  linear_forward(s, logits, h_TD, m.weights.head);
}

}  // namespace sluice
