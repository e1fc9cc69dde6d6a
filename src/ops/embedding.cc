#include "ops/embedding.h"

#include "ops/dispatch.h"

namespace sluice {

void embedding_forward(Stream& s, Tensor x, const Tensor& ids_T, const Matrix& table) {
  check(ids_T.dtype == DType::i32 && ids_T.size() == x.rows() && table.cols == x.cols(), "embedding_forward: shapes");
  check(table.format != Format::fp8_128, "embedding_forward: expected an f32 or bf16 table");
  dispatch<cpu::embedding_forward, cuda::embedding_forward>(s, x, ids_T, table);
}

void embedding_backward_weight(Stream& s, const Matrix& dtable, const Tensor& dx, const Tensor& ids_T) {
  check(ids_T.dtype == DType::i32 && ids_T.size() == dx.rows() && dtable.cols == dx.cols() &&
            dtable.format == Format::f32,
        "embedding_backward_weight: shapes");
  dispatch<cpu::embedding_backward_weight, cuda::embedding_backward_weight>(s, dtable, dx, ids_T);
}

}  // namespace sluice
