// Token embedding.  x (T, D) f32|bf16, table (V, D) f32|bf16, dtable (V, D) f32, ids (T) i32 in [0, V).
#pragma once
#include "base/stream.h"
#include "ops/matrix.h"

namespace sluice {

void embedding_forward(Stream& s, Tensor x, const Tensor& ids_T, const Matrix& table);
/// dtable[ids[t]] += dx[t], t ascending.
void embedding_backward_weight(Stream& s, const Matrix& dtable, const Tensor& dx, const Tensor& ids_T);

namespace cpu {
decltype(sluice::embedding_forward) embedding_forward;
decltype(sluice::embedding_backward_weight) embedding_backward_weight;
}  // namespace cpu
namespace cuda {
decltype(sluice::embedding_forward) embedding_forward;
decltype(sluice::embedding_backward_weight) embedding_backward_weight;
}  // namespace cuda

}  // namespace sluice
