// Seconds of the phases of a layer on one GPU for one micro-batch: products, attention, what moves memory, transfers.
#pragma once
#include "plan/network.h"
#include "plan/rates.h"

namespace sluice {

/// Computing time by what limits it.
struct Compute {
  double products = 0, attention = 0, elementwise = 0;
  /// With the share `sms` of the multiprocessors: memory stays as fast.
  double seconds(double sms = 1) const { return (products + attention) / sms + elementwise; }
  Compute& operator+=(const Compute& other);
};

/// One layer and one micro-batch. The phases are those of a block; "moved" are the transfers of expert parallelism.
struct LayerTime {
  Compute attention_forward, attention_input, attention_weight;
  Compute ffn_forward, ffn_input, ffn_weight;  // with a router: experts, router, permutation, sum
  double dispatch = 0, combine = 0;            // forward: rows to experts in FP8, back in BF16
  double gradient_out = 0, gradient_back = 0;  // backward: gradients to experts in FP8, back in BF16
};

/// What a GPU works on at a time.
struct MicroShape {
  double tokens;   // of a micro-batch on this GPU
  double seq_len;  // longer than `tokens`: the sequence is spread over several GPUs, which gather its latents
  int64_t expert;  // ranks that share the experts
};

enum class LayerKind { dense, experts };

/// With the FP8 recipe (specification 5) and the recomputation of 6.7: latent norms, up-projections, SwiGLU.
LayerTime layer_time(const HfConfig& c, LayerKind kind, const MicroShape& shape, const ClusterConfig& cluster,
                     const Rates& rates);

/// Final norm, head and loss, in BF16, as a layer of its own.
LayerTime head_time(const HfConfig& c, const MicroShape& shape, const Rates& rates);

/// What an MTP module does before its block: two norms and eh_proj.
LayerTime mtp_input_time(const HfConfig& c, const MicroShape& shape, const Rates& rates);

}  // namespace sluice
