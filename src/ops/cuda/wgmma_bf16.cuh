// Products of four warps on Hopper (hopper.cuh), 16 of k of bf16, in the shapes of attention: d (64 x 64, 128 or 192,
// float32) (=|+=) a b'. The left side lies in shared memory or, as the warps' own rows, in registers; the order of
// elements in d is that of hopper.cuh for any number of columns.
#pragma once
#include "ops/cuda/hopper.cuh"

namespace sluice::cuda::hopper {

#define SLUICE_REGISTERS_0_31                \
  "%0, %1, %2, %3, %4, %5, %6, %7, "         \
  "%8, %9, %10, %11, %12, %13, %14, %15, "   \
  "%16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define SLUICE_REGISTERS_32_63               \
  "%32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define SLUICE_REGISTERS_64_95               \
  "%64, %65, %66, %67, %68, %69, %70, %71, " \
  "%72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, " \
  "%88, %89, %90, %91, %92, %93, %94, %95"
#define SLUICE_SUMS_8(d, i)                                                                                   \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define SLUICE_SUMS_32(d, i) \
  SLUICE_SUMS_8(d, i), SLUICE_SUMS_8(d, i + 8), SLUICE_SUMS_8(d, i + 16), SLUICE_SUMS_8(d, i + 24)

/// 16 x 16 of the left side per warp: (row, k), (row + 8, k), (row, k + 8), (row + 8, k + 8), row = lane / 4 and k =
/// 2 (lane % 4), two numbers of k each.
using Left = uint32_t[4];

/// Both sides in shared memory, 64 columns.
template <bool kAcrossA, bool kAcrossB>
__device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31
      "}, %32, %33, p, 1, 1, %35, %36;\n}\n"
      : SLUICE_SUMS_32(d, 0)
      : "l"(a), "l"(b), "r"(static_cast<int>(keep)), "n"(static_cast<int>(kAcrossA)), "n"(static_cast<int>(kAcrossB)));
}
/// Both sides in shared memory, 128 columns.
template <bool kAcrossA, bool kAcrossB>
__device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31 ", " SLUICE_REGISTERS_32_63
      "}, %64, %65, p, 1, 1, %67, %68;\n}\n"
      : SLUICE_SUMS_32(d, 0), SLUICE_SUMS_32(d, 32)
      : "l"(a), "l"(b), "r"(static_cast<int>(keep)), "n"(static_cast<int>(kAcrossA)), "n"(static_cast<int>(kAcrossB)));
}
/// Both sides in shared memory, 192 columns.
template <bool kAcrossA, bool kAcrossB>
__device__ __forceinline__ void multiply(float (&d)[96], uint64_t a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31 ", " SLUICE_REGISTERS_32_63
      ", " SLUICE_REGISTERS_64_95 "}, %96, %97, p, 1, 1, %99, %100;\n}\n"
      : SLUICE_SUMS_32(d, 0), SLUICE_SUMS_32(d, 32), SLUICE_SUMS_32(d, 64)
      : "l"(a), "l"(b), "r"(static_cast<int>(keep)), "n"(static_cast<int>(kAcrossA)), "n"(static_cast<int>(kAcrossB)));
}
/// The left side in registers, the right side's rows along k, 64 columns.
__device__ __forceinline__ void multiply_along(float (&d)[32], const Left& a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}\n"
      : SLUICE_SUMS_32(d, 0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(keep)));
}
/// The left side in registers, the right side's rows along k, 128 columns.
__device__ __forceinline__ void multiply_along(float (&d)[64], const Left& a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31 ", " SLUICE_REGISTERS_32_63
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}\n"
      : SLUICE_SUMS_32(d, 0), SLUICE_SUMS_32(d, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(keep)));
}
/// The left side in registers, the right side's rows across k, 128 columns.
__device__ __forceinline__ void multiply_across(float (&d)[64], const Left& a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31 ", " SLUICE_REGISTERS_32_63
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : SLUICE_SUMS_32(d, 0), SLUICE_SUMS_32(d, 32)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(keep)));
}
/// The left side in registers, the right side's rows across k, 192 columns.
__device__ __forceinline__ void multiply_across(float (&d)[96], const Left& a, uint64_t b, bool keep) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %101, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {" SLUICE_REGISTERS_0_31 ", " SLUICE_REGISTERS_32_63
      ", " SLUICE_REGISTERS_64_95 "}, {%96, %97, %98, %99}, %100, p, 1, 1, 1;\n}\n"
      : SLUICE_SUMS_32(d, 0), SLUICE_SUMS_32(d, 32), SLUICE_SUMS_32(d, 64)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(keep)));
}

#undef SLUICE_REGISTERS_0_31
#undef SLUICE_REGISTERS_32_63
#undef SLUICE_REGISTERS_64_95
#undef SLUICE_SUMS_8
#undef SLUICE_SUMS_32

}  // namespace sluice::cuda::hopper
