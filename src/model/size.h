// Counting a model without allocating it (specification 1.2): parameters, bytes, operations.
#pragma once
#include "model/weights.h"

namespace sluice {

struct ModelSize {
  int64_t main = 0;        // parameters without MTP modules
  int64_t mtp = 0;         // unique parameters of the MTP modules
  int64_t mtp_copies = 0;  // copies of embedding and head that checkpoints hold under the MTP modules
  int64_t active = 0;      // used per token by the main model, embedding left out, head included
  int64_t active_with_embedding = 0;
  int64_t kv_bytes_per_token = 0;  // latent cache of all main layers in bf16 (specification 2.7)
};

ModelSize model_size(const HfConfig& c, int64_t mtp_modules);

/// Floating-point operations of training on one token of sequences of `tokens`: 6 per active matmul parameter (the
/// router, the head once for the main model and once per MTP module) plus causal attention; recomputation not counted.
double training_flops_per_token(const HfConfig& c, int64_t mtp_modules, int64_t tokens);

/// Bytes on disk, by stored dtype ("BF16", "F8_E4M3", "F32"), of a checkpoint in `precision`, MTP copies included.
struct StoredBytes {
  int64_t f32 = 0, bf16 = 0, fp8 = 0;
  int64_t total() const { return f32 + bf16 + fp8; }
};
StoredBytes stored_bytes(const HfConfig& c, int64_t mtp_modules, Precision precision);

}  // namespace sluice
