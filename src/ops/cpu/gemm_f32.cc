#include "ops/cpu/gemm_f32.h"

#include <dnnl.h>
#include <fmt/format.h>
#include <omp.h>

#include "base/error.h"

namespace sluice::cpu {
namespace {

// oneDNN threads with OpenMP; our pool calls it from every thread, so each call must stay on its own.
void one_thread() {
  thread_local const bool done = (omp_set_num_threads(1), true);
  (void)done;
}

const char* isa_name(dnnl_cpu_isa_t isa) {
  switch (isa) {
    case dnnl_cpu_isa_sse41:
      return "SSE4.1";
    case dnnl_cpu_isa_avx:
      return "AVX";
    case dnnl_cpu_isa_avx2:
      return "AVX2";
    case dnnl_cpu_isa_avx512_core:
      return "AVX-512";
    case dnnl_cpu_isa_avx512_core_vnni:
      return "AVX-512 VNNI";
    case dnnl_cpu_isa_avx512_core_bf16:
      return "AVX-512 BF16";
    default:
      return "other";
  }
}

}  // namespace

void gemm_f32(const GemmShape& shape, const GemmOperand& a, const GemmOperand& b, float beta, float* c, int64_t ldc) {
  if (shape.m == 0 || shape.n == 0) return;
  one_thread();
  const dnnl_status_t status = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', shape.m, shape.n, shape.k,
                                          1.0f, a.data, a.ld, b.data, b.ld, beta, c, ldc);
  check(status == dnnl_success, "gemm_f32: oneDNN refused the call");
}

std::string gemm_description() {
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("oneDNN {}.{}.{} sgemm, {}", v->major, v->minor, v->patch, isa_name(dnnl_get_effective_cpu_isa()));
}

}  // namespace sluice::cpu
