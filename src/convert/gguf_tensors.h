// Which tensors a GGUF file gets for a model, and of which type (specification 10.5, GgufLayout::split).
#pragma once
#include <vector>

#include "formats/gguf_writer.h"
#include "model/weights.h"

namespace sluice {

/// A tensor of a file to be written.
struct GgufOutput {
  enum class Content : uint8_t {
    matrices,  // those of `params`, one after another
    keys,      // of kv_b, per head: the transpose of its first qk_nope_head_dim rows
    values,    // of kv_b, per head: its other rows
  };
  GgufSpec spec;
  Format format = Format::f32;
  Content content = Content::matrices;
  std::vector<Param> params;  // one, or one per expert

  int64_t cols() const { return spec.dims[0]; }
  /// Of one expert or head.
  int64_t rows() const { return spec.dims.size() > 1 ? spec.dims[1] : 1; }
  int64_t matrices() const { return spec.dims.size() > 2 ? spec.dims[2] : 1; }
};

/// All tensors of a model whose matrices are to be in `format`: norms, router and its bias in f32, the head of formats
/// below six bits in q6_k, and where rows are no whole number of blocks another format (fitting_format). MTP modules
/// are kept, their copies of embedding and head are not. Points into `w`.
std::vector<GgufOutput> gguf_outputs(ModelWeights& w, const HfConfig& config, Format format);

/// `format`, or where `cols` is no multiple of its block the one of blocks of 32 that is closest above it (q2_k and
/// q3_k -> iq4_nl, q4_k -> q5_0, q5_k -> q5_1, q6_k -> q8_0), or where that does not fit either f16.
Format fitting_format(Format format, int64_t cols);

}  // namespace sluice
