#include "ops/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "base/cuda/queue.h"
#include "base/error.h"

namespace sluice::cuda {
namespace {

/// The driver's function, found at run time: the program must start where there is no driver.
decltype(&cuTensorMapEncodeTiled) find_encoder() {
  constexpr unsigned kVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  check_cuda(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion, cudaEnableDefault, &result),
      "cuTensorMapEncodeTiled");
  if (result != cudaDriverEntryPointSuccess) fail("GPU: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

bool has_tensor_map(const MatrixStack& m) {
  constexpr int64_t kMostPitch = int64_t{1} << 40, kMostSize = int64_t{1} << 31;
  const auto is_pitch = [](int64_t bytes) { return bytes > 0 && bytes % 16 == 0 && bytes < kMostPitch; };
  const auto is_size = [](int64_t n) { return n > 0 && n < kMostSize; };
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && is_pitch(m.pitch) && is_pitch(m.step) && is_size(m.length) &&
         is_size(m.lines) && is_size(m.count);
}

CUtensorMap tensor_map(const MatrixStack& m) {
  static const auto encode = find_encoder();
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(m.length), static_cast<cuuint64_t>(m.lines),
                               static_cast<cuuint64_t>(m.count)};
  const cuuint64_t pitches[2] = {static_cast<cuuint64_t>(m.pitch), static_cast<cuuint64_t>(m.step)};
  const cuuint32_t box[3] = {128u / static_cast<cuuint32_t>(m.element_bytes), static_cast<cuuint32_t>(m.box_lines), 1};
  const cuuint32_t every[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, m.element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
             const_cast<void*>(m.data), sizes, pitches, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(status == CUDA_SUCCESS, "tensor_map: the driver refused a matrix");
  return map;
}

}  // namespace sluice::cuda
