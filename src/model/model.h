// The whole model: weights in memory, and one forward (and backward) pass over a batch.
// B sequences of S tokens, T = B S; MTP module k (from 0) runs on S - 1 - k positions of each sequence.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "base/file.h"
#include "model/block.h"
#include "model/mtp.h"

namespace sluice {

/// Weights of one precision with their memory.
/// cos and sin of the rotary angles of the first positions (ops/rope.h), on the model's device: made when they are
/// first needed, and kept.
struct RopeTable {
  Arena memory{0};
  Tensor rows;
};

struct Model {
  HfConfig config;
  Precision precision = Precision::f32;
  ModelWeights weights;
  Arena memory{0};
  ExpertExchange* exchange = nullptr;   // where routed experts lie on several ranks; not owned
  std::shared_ptr<const void> files{};  // keeps the mapped files that weights point into alive
  std::shared_ptr<RopeTable> rope = std::make_shared<RopeTable>();
  std::span<const MappedFile> mappings{};  // of these files, where weights lie as they are computed with
};

/// Memory on `device` for every weight of `c` with `mtp_modules` modules; zero.
Model allocate_model(const HfConfig& c, int64_t mtp_modules, Precision precision, const Device& device = {});

/// Memory on `device` for weights of the same shapes; zero.
Model allocate_like(const Model& model, Precision precision, const Device& device);

/// A tree of float32 matrices of the same shapes (gradients, masters) on the same device, zero.
Model allocate_f32_like(const Model& model);

/// Copies every matrix between trees of equal shapes and formats (f32, bf16, fp8_128); `transfer` is upload or download
/// (base/transfer.h).
void transfer_tree(Stream& s, ModelWeights& to, ModelWeights& from,
                   void (*transfer)(Stream& s, const Tensor& to, const Tensor& from));

/// A model in host memory in that of the stream's device, and the other way round.
Model upload_model(Stream& s, Model& host);
Model download_model(Stream& s, Model& device);

/// Bytes allocate_model would take, without taking them.
size_t model_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision);

/// Number of MoE layers with a router, MTP blocks included; the order of `counts_LE` below.
int64_t num_routers(const ModelWeights& w);
/// The router biases in that order (empty matrices in V2 models).
std::vector<Matrix*> router_biases(ModelWeights& w);

/// A batch on its device. All i32, T = B S, row-major by sequence.
struct ModelBatch {
  int64_t batch = 0, tokens = 0;  // B, S
  Tensor ids_T;
  Tensor first_T;                  // empty: every token sees all before it (attention.h)
  Tensor target_T;                 // main head, -1 where there is none
  std::vector<Tensor> mtp_target;  // per module: (B (S-1-k)) targets
};

/// Options of one pass, all from the training recipe.
struct PassOptions {
  float loss_scale = 1;     // gradient of: loss_scale (sum main + mtp_weight / modules * sum mtp) + balance
  float mtp_weight = 0;     // lambda
  float balance_alpha = 0;  // times the mean over sequences, summed over layers
  float balance_scale = 1;  // share of this micro-batch in the step: sequences here / sequences in the step
  bool routed_counts = false;
  Out gradients = Out::add;  // of matrices: added to what is there, or set; those of norms and the embedding are added
  bool recompute = false;
};

/// What a pass leaves behind, in the arena of the pass.
struct PassResult {
  std::vector<Tensor> hidden;        // input of every block, then the output of the last: (T, D)
  Tensor normed_TD;                  // after model.norm
  std::vector<Tensor> mtp_normed;    // per module: (B (S-1-k), D), input of the head
  Tensor loss_T;                     // per token, main head
  std::vector<Tensor> mtp_loss;      // per module
  std::vector<Tensor> balance_loss;  // per MoE layer, MTP blocks last: (B)
};

/// Forward only, up to the normed hidden states (no head). counts_LE (i64; layers as num_routers) +=, unless empty.
/// Everything stays allocated in `a` until the caller releases it.
PassResult model_forward(Stream& s, Arena& a, const Model& m, const ModelBatch& batch, const PassOptions& options,
                         const Tensor& counts_LE);

/// Forward, losses and backward: grad += gradients (or =, options.gradients). Result tensors stay in `a`.
PassResult model_forward_backward(Stream& s, Arena& a, const Model& m, const ModelWeights& grad,
                                  const ModelBatch& batch, const PassOptions& options, const Tensor& counts_LE);

/// logits (T, V) f32 = head(h).
void model_logits(Stream& s, Tensor logits, const Tensor& h_TD, const Model& m);

}  // namespace sluice
