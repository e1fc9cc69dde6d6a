// A weight matrix as the ops see it: a view of rows (outputs) by cols (inputs) in one of several formats.
#pragma once
#include <cstdint>
#include <span>

#include "base/tensor.h"

namespace sluice {

enum class Format : uint8_t {
  f32,      // packed float32
  bf16,     // packed bfloat16
  fp8_128,  // E4M3 codes, one float32 dequantisation multiplier per 128 x 128 block (specification 5.2, 10.2)
  // For inference only, as GGUF files hold them (specification 10.4, ops/block_format.h):
  f16,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
};

/// Non-owning. `scales` only for fp8_128: (ceil(rows/128), ceil(cols/128)), packed.
struct Matrix {
  void* data = nullptr;
  float* scales = nullptr;
  Format format = Format::f32;
  int64_t rows = 0, cols = 0;

  explicit operator bool() const { return rows > 0; }
  int64_t size() const { return rows * cols; }
  int64_t scale_rows() const { return (rows + 127) / 128; }
  int64_t scale_cols() const { return (cols + 127) / 128; }
  /// The elements as a packed tensor (for fp8_128: the codes). Of f32, bf16 and fp8_128 only.
  Tensor tensor() const {
    const DType dtype = format == Format::f32 ? DType::f32 : format == Format::bf16 ? DType::bf16 : DType::f8_e4m3;
    return Tensor(data, dtype, {rows, cols});
  }
};

/// The same matrix of every expert of one layer; not necessarily contiguous in memory.
using ExpertBank = std::span<const Matrix>;

/// A matrix over a packed f32 or bf16 tensor.
inline Matrix as_matrix(const Tensor& t) {
  check(t.packed() && (t.dtype == DType::f32 || t.dtype == DType::bf16), "as_matrix: expected packed f32 or bf16");
  return {t.data, nullptr, t.dtype == DType::f32 ? Format::f32 : Format::bf16, t.rows(), t.cols()};
}

}  // namespace sluice
