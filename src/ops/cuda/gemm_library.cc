#include "ops/cuda/gemm_library.h"

#include <cublasLt.h>

#include <array>
#include <map>

#include "base/error.h"

namespace sluice::cuda {
namespace {

constexpr uint32_t kAlignment = 16;

void check_library(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("GPU: cuBLASLt: {}: {}", what, cublasLtGetStatusString(status));
}

/// What decides which of the library's kernels runs: sizes, row strides, types and layouts.
using Shape = std::array<int64_t, 12>;

/// The library's handle, and its choices so far, which take it longer than small products.
struct Library {
  cublasLtHandle_t handle = nullptr;
  std::map<Shape, cublasLtMatmulAlgo_t> choices;

  Library() { check_library(cublasLtCreate(&handle), "starting it"); }
  ~Library() { cublasLtDestroy(handle); }
  Library(const Library&) = delete;
};

Library& library(Queue& queue) {
  if (!queue.gemm_library) queue.gemm_library = std::make_shared<Library>();
  return *static_cast<Library*>(queue.gemm_library.get());
}

/// A description that ends with its scope.
template <class T, cublasStatus_t (*destroy)(T)>
struct Description {
  T value = nullptr;
  Description() = default;
  ~Description() { destroy(value); }
  Description(const Description&) = delete;
};
using Layout = Description<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Operation = Description<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Description<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

void make(Layout& l, cudaDataType_t type, int64_t rows, int64_t cols, int64_t ld) {
  check_library(
      cublasLtMatrixLayoutCreate(&l.value, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), ld),
      "a layout");
}

cudaDataType_t type_of(bool is_f32) { return is_f32 ? CUDA_R_32F : CUDA_R_16BF; }

/// The library counts columns first: to it a row-major (rows, cols) is (cols, rows). So y' = b a' with
///   left  b: (K, N) as it lies, transposed, where b lies along k; else (N, K)
///   right a: (K, M) where a lies along k; else (M, K), transposed
struct Call {
  Operation operation;
  Layout left, right, out;

  explicit Call(const Product& p, bool is_fp8 = false) {
    const cublasOperation_t as_is = CUBLAS_OP_N, transposed = CUBLAS_OP_T;
    const cublasOperation_t left_op = p.b.along_k ? transposed : as_is, right_op = p.a.along_k ? as_is : transposed;
    check_library(cublasLtMatmulDescCreate(&operation.value, CUBLAS_COMPUTE_32F, CUDA_R_32F), "an operation");
    cublasLtMatmulDescSetAttribute(operation.value, CUBLASLT_MATMUL_DESC_TRANSA, &left_op, sizeof left_op);
    cublasLtMatmulDescSetAttribute(operation.value, CUBLASLT_MATMUL_DESC_TRANSB, &right_op, sizeof right_op);
    make(left, is_fp8 ? CUDA_R_8F_E4M3 : type_of(p.b.is_f32), p.b.along_k ? p.K : p.N, p.b.along_k ? p.N : p.K, p.b.ld);
    make(right, is_fp8 ? CUDA_R_8F_E4M3 : type_of(p.a.is_f32), p.a.along_k ? p.K : p.M, p.a.along_k ? p.M : p.K,
         p.a.ld);
    make(out, type_of(p.y_is_f32), p.N, p.M, p.ldy);
    if (is_fp8) set_scales(p);
  }

 private:
  void set_scales(const Product& p) {
    const auto set = [&](cublasLtMatmulDescAttributes_t key, const auto& value) {
      check_library(cublasLtMatmulDescSetAttribute(operation.value, key, &value, sizeof value), "scales");
    };
    const int32_t vectors = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
    const int32_t squares = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;
    const void *left_scales = p.b.data ? p.b.scale : p.bank.scales[0], *right_scales = p.a.scale;
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, p.by_depth ? vectors : squares);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, vectors);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, left_scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, right_scales);
  }
};

/// Asks the library for its best kernel; false: it has none.
bool choose(cublasLtMatmulAlgo_t& choice, Library& lib, const Call& c) {
  Preference preference;
  check_library(cublasLtMatmulPreferenceCreate(&preference.value), "a preference");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t key, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(preference.value, key, &value, sizeof value);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kLibraryWorkspace);
  for (const auto key : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                         CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(key, kAlignment);
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(lib.handle, c.operation.value, c.left.value, c.right.value, c.out.value,
                                     c.out.value, preference.value, 1, &result, &found);
  choice = result.algo;
  return status == CUBLAS_STATUS_SUCCESS && found > 0;
}

bool is_aligned(const void* data, int64_t ld, bool is_f32) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 && ld * (is_f32 ? 4 : 2) % kAlignment == 0;
}

constexpr int64_t kIsFp8 = 2;  // beside false and true: whether sides are float32

bool multiply(Queue& queue, const Product& p, const Call& call, int64_t type, void* workspace) {
  const void *a = p.a.data, *b = p.b.data ? p.b.data : p.bank.data[0];
  void* y = p.y ? p.y : p.bank.data[0];
  Library& lib = library(queue);
  const Shape shape = {p.M,         p.N,         p.K,  p.a.ld,     p.b.ld, p.ldy,
                       p.a.along_k, p.b.along_k, type, p.y_is_f32, p.add,  p.by_depth};
  auto choice = lib.choices.find(shape);
  if (choice == lib.choices.end()) {
    cublasLtMatmulAlgo_t algorithm;
    if (!choose(algorithm, lib, call)) return false;
    choice = lib.choices.emplace(shape, algorithm).first;
  }
  const float one = 1, keep = p.add ? 1 : 0;
  check_library(
      cublasLtMatmul(lib.handle, call.operation.value, &one, b, call.left.value, a, call.right.value, &keep, y,
                     call.out.value, y, call.out.value, &choice->second, workspace, kLibraryWorkspace, queue.stream()),
      "a product");
  return true;
}

}  // namespace

bool library_product(Queue& queue, const Product& p, void* workspace) {
  const void *a = p.a.data, *b = p.b.data ? p.b.data : p.bank.data[0];
  const void* y = p.y ? p.y : p.bank.data[0];
  if (p.offsets_E1 || p.a.is_f32 != p.b.is_f32 || (p.a.is_f32 && !p.y_is_f32) || !is_aligned(a, p.a.ld, p.a.is_f32) ||
      !is_aligned(b, p.b.ld, p.b.is_f32) || !is_aligned(y, p.ldy, p.y_is_f32))
    return false;
  return multiply(queue, p, Call(p), p.a.is_f32, workspace);
}

bool library_fp8_product(Queue& queue, const Product& p, void* workspace) {
  return !p.offsets_E1 && multiply(queue, p, Call(p, true), kIsFp8, workspace);
}

}  // namespace sluice::cuda
