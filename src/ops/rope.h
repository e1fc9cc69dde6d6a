// Rotary embedding of adjacent channel pairs (specification 2.4):
//   y[2i] = x[2i] cos - x[2i+1] sin,  y[2i+1] = x[2i] sin + x[2i+1] cos,  angle = position * inv_freq[i].
// x (T * H, R) f32|bf16 in place, row stride x.ld: one row per token and head;  position_T (T) i32;
// table (P, R) f32: row p holds R/2 cosines, then R/2 sines of position p (magnitude of YaRN included).
#pragma once
#include "base/stream.h"
#include "base/tensor.h"

namespace sluice {

void rope_forward(Stream& s, Tensor x, const Tensor& position_T, const Tensor& table);
/// The transposed map: rotates by minus the angle (and applies the table's magnitude again).
void rope_backward(Stream& s, Tensor dx, const Tensor& position_T, const Tensor& table);

namespace cpu {
decltype(sluice::rope_forward) rope_forward;
decltype(sluice::rope_backward) rope_backward;
}  // namespace cpu
namespace cuda {
decltype(sluice::rope_forward) rope_forward;
decltype(sluice::rope_backward) rope_backward;
}  // namespace cuda

}  // namespace sluice
