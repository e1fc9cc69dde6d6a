// Element types of tensors in GGUF files (specification 10.4): a row is a sequence of blocks of the same size in bytes.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace sluice {

/// Numbered as in the file. Ids 4, 5, 31 to 33 and 36 to 38 belonged to types that the format has dropped.
enum class GgmlType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42
};

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;   // "F32", "Q4_K", ... as the format's documentation writes it
  int64_t block_elements;  // consecutive elements of a row; 1 for plain types
  int64_t block_bytes;
};

/// All of them, in the order of their ids.
std::span<const GgmlTypeInfo> ggml_types();
const GgmlTypeInfo& ggml_type_info(GgmlType type);
/// The type of that id, if it is one of these.
std::optional<GgmlType> find_ggml_type(uint32_t id);

/// Bytes of a tensor of these dimensions (ggml order: dims[0] is the contiguous one and a multiple of the block's
/// elements; all >= 1). None when they do not fit in 64 bits.
std::optional<uint64_t> ggml_bytes(GgmlType type, std::span<const int64_t> dims);

}  // namespace sluice
