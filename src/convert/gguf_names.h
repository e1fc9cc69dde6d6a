// Where a parameter of a checkpoint lies in a GGUF file (specification 10.5).
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

/// A place in a GGUF file.
struct GgufPlace {
  std::string tensor;                // "blk.3.ffn_up_exps.weight"
  std::optional<int64_t> expert;     // which matrix of the tensor; none: the tensor is the matrix
  std::string key_half, value_half;  // of kv_b_proj: the two tensors that hold it under GgufLayout::split
};

/// Of a parameter named as model/weights.h's parameters() names it, or of an MTP module's copy of embedding or head.
/// Throws Bug for any other name.
GgufPlace gguf_place(std::string_view parameter);

}  // namespace sluice
