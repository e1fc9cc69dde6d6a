// Weights in the layout of plain formats (ops/cpu/packed_layout.h), made from rows.
#pragma once
#include "ops/packed.h"

namespace sluice::cpu {

/// pack_matrix() for f32, bf16 and fp8_128.
void pack_plain(Stream& s, const PackedMatrix& out, const Matrix& w);

}  // namespace sluice::cpu
