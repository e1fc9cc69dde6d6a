// The weights of a model as plain structs of matrix views. One struct serves working weights, float32 masters,
// gradients and moments; only the formats differ. `parameters()` names every matrix, in one fixed order.
// D hidden_size, F FFN width, E experts, H heads, Q q_lora_rank, C kv_lora_rank, V vocabulary.
#pragma once
#include <string>
#include <vector>

#include "base/arena.h"
#include "formats/hf_config.h"
#include "ops/matrix.h"

namespace sluice {

struct MlaWeights {
  Matrix q_proj;                 // (H (nope+rope), D) where q is not compressed, else empty
  Matrix q_a, q_a_norm, q_b;     // (Q, D), (1, Q), (H (nope+rope), Q)
  Matrix kv_a, kv_a_norm, kv_b;  // (C + rope, D), (1, C), (H (nope+value), C)
  Matrix o;                      // (D, H value)
};

struct FfnWeights {
  Matrix gate, up, down;  // (F, D), (F, D), (D, F)
};

struct MoeWeights {
  Matrix router, bias;                 // (E, D), (1, E): always float32; bias empty in V2 models
  std::vector<Matrix> gate, up, down;  // E matrices each
  FfnWeights shared;                   // empty without shared experts
};

struct BlockWeights {
  Matrix attn_norm, ffn_norm;  // (1, D)
  MlaWeights mla;
  FfnWeights dense;  // one of the two
  MoeWeights moe;
  bool is_moe = false;
};

struct MtpWeights {
  Matrix enorm, hnorm;  // (1, D)
  Matrix eh_proj;       // (D, 2 D): columns [embedding | hidden]
  BlockWeights block;
  Matrix head_norm;  // (1, D)
};

struct ModelWeights {
  Matrix embed;  // (V, D)
  std::vector<BlockWeights> layers;
  Matrix norm;  // (1, D)
  Matrix head;  // (V, D)
  std::vector<MtpWeights> mtp;
};

/// What a matrix is: decides its format in each precision, weight decay and what is optimised.
enum class ParamKind : uint8_t { embedding, head, linear, eh_proj, norm, router, router_bias };

struct Param {
  std::string name;  // in released checkpoints, e.g. "model.layers.3.mlp.experts.7.up_proj.weight"
  Matrix* matrix;
  ParamKind kind;
  int64_t layer = -1;   // of blocks: which; MTP modules follow the layers
  int64_t expert = -1;  // of routed experts: which
};

/// Every matrix in file order. Pointers into `w`, valid while its vectors are not resized.
std::vector<Param> parameters(ModelWeights& w);

/// Some of the parameters, by their place in parameters(); empty: all.
using ParamMask = std::vector<bool>;
inline bool is_in(const ParamMask& mask, size_t i) { return mask.empty() || mask[i]; }

/// The structs with all shapes and no memory.
ModelWeights weight_shapes(const HfConfig& c, int64_t mtp_modules);
/// Those of other weights, which may have fewer experts than the configuration.
ModelWeights shapes_of(const ModelWeights& w);

/// How numbers are held while computing: specification 5.1.
enum class Precision : uint8_t { f32, bf16, fp8 };

/// Format of the working weights: router and its bias always f32; linear layers fp8_128 under fp8; the rest bf16 under
/// bf16 and fp8.
Format working_format(ParamKind kind, Precision precision);

/// dtype of activations: f32 under f32, else bf16.
DType activation_dtype(Precision precision);

/// Bytes a matrix takes in memory, scales included.
size_t matrix_bytes(const Matrix& m);

/// Gives a matrix of known shape memory from the arena, uninitialised.
void allocate(Matrix& m, Format format, Arena& arena);

/// Gives every matrix memory. Gate and up of one expert or FFN lie one after the other where that keeps both aligned,
/// so that they are one matrix in products with what they have in common.
void allocate_all(ModelWeights& w, Precision precision, Arena& arena);

/// The rows of `top` and of `bottom`; empty where they do not lie one after the other.
Matrix stacked(const Matrix& top, const Matrix& bottom);

/// Whether the optimiser decays it (specification 7.3: matrices, not norms).
inline bool has_weight_decay(ParamKind kind) { return kind != ParamKind::norm; }

}  // namespace sluice
