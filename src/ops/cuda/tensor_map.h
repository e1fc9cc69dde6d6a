// Descriptions of matrices in GPU memory for the copy engine.
#pragma once
#include <cuda.h>

#include <cstdint>

namespace sluice::cuda {

/// Matrices of one shape, `step` bytes apart: `lines` lines of `length` elements, `pitch` bytes apart. What is copied
/// at once is a box of box_lines lines and 128 bytes of each.
struct MatrixStack {
  const void* data = nullptr;
  int element_bytes = 1;  // 1: codes, 2: bf16
  int64_t length = 0, lines = 0, count = 1;
  int64_t pitch = 0, step = 0;
  int box_lines = 0;
};

/// Whether the copy engine takes it: address, pitch and step are multiples of 16 bytes, sizes within its limits.
bool has_tensor_map(const MatrixStack& m);
/// Coordinates: element of the line, line, matrix. In shared memory lines are swizzled by 128 bytes; what lies outside
/// of a matrix is zero.
CUtensorMap tensor_map(const MatrixStack& m);

}  // namespace sluice::cuda
