// Inference products with weights repacked for the machine that multiplies. Row-invariant as everything in
// ops/infer.h: row i has the same bits for any rows, neighbours and threads. T, R rows, K inputs, N outputs, E experts.
// On the CPU:
//   block formats (specification 10.4)  activations rounded to 8 bits per block of 32, sums of a block exact in
//                                       integers, blocks added in float32 in ascending order
//   f32, bf16, fp8_128                  float32 activations, multiply-adds in ascending order of K; fp8 codes are
//                                       multiplied by their scale first; the few bf16 weights whose exponent is far
//                                       from those of their neighbours come last
// On a GPU:
//   bf16, fp8_128, block formats        activations rounded to bf16, block formats too; sums of 128 of K on tensor
//                                       cores, which are scaled (fp8_128) and added in float32 in ascending order;
//                                       a code of NaN makes all sums of its block of 128 x 128 NaN
//   f32                                 float32 activations, multiply-adds in an order that depends on K alone
#pragma once
#include <span>

#include "base/stream.h"
#include "ops/infer.h"
#include "ops/matrix.h"

namespace sluice {

/// A weight matrix (rows x cols) in the layout of this machine; non-owning. On the CPU nothing is lost: the values are
/// exactly those of the format it was packed from. The memory is that of the stream's device.
struct PackedMatrix {
  std::byte* data = nullptr;  // 64-byte aligned
  Format format = Format::q8_0;
  int64_t rows = 0, cols = 0;
};

/// Whether a matrix of this format and width can be packed: not f16, and whole blocks.
bool is_packable(const Matrix& w);

/// What a matrix becomes when it is packed for `device`: on a GPU block formats become bf16.
Format packed_format(Format format, const Device& device);

/// How activations enter the products with a packed matrix of this format.
enum class Activations : uint8_t { codes, floats, halves };
Activations activations_of(Format format, const Device& device = {});

/// Bytes of a matrix of this packed format.
size_t packed_bytes(Format format, int64_t rows, int64_t cols, const Device& device = {});

/// Bytes of a packed matrix on the CPU that a product with all of it reads: fewer than packed_bytes() where bf16 is
/// held in its short form.
double packed_read_bytes(const PackedMatrix& w);

/// Fills `out` (its data, packed_format() and the shape of `w` set) from blocks in the order of the file, which lie in
/// memory of the host's, on a GPU's stream as well.
void pack_matrix(Stream& s, const PackedMatrix& out, const Matrix& w);

/// Activations as these products read them. In memory of the caller's, 64-byte aligned, prepared_row_bytes() per row.
struct PreparedRows {
  std::byte* data = nullptr;
  int64_t rows = 0, cols = 0;
  Activations kind = Activations::floats;

  PreparedRows slice(int64_t begin, int64_t count) const;
};

/// Bytes of one row of `cols` activations; for codes a multiple of 32.
size_t prepared_row_bytes(int64_t cols, Activations kind);

/// out = x_TK (f32, rows may be strided). Codes: per block of 32, scale amax/127, rounded to nearest even. Halves:
/// rounded to bf16.
void prepare_rows(Stream& s, const PreparedRows& out, const Tensor& x);

/// y_TN (=|+=) x_TK w_NK', with the first N rows of w where it has more.
struct PackedProduct {
  Tensor y;
  PreparedRows x;
  PackedMatrix w;
  Out out = Out::set;
};

/// All of `products`, which write to different memory, as one piece of work: threads wait for each other once.
void packed_linear(Stream& s, std::span<const PackedProduct> products);

/// The same matrix of every expert, `stride` bytes apart.
struct PackedBank {
  PackedMatrix first;
  int64_t stride = 0, experts = 0;
};

/// y_RN = x_RK w_NK' with the matrix of each row's expert. With slot_of_R (i32, T top_k), x is (T, K): row r of its
/// experts is row slot_of_R[r] / top_k of x, and rows of y beyond these are the rows of x once more. Where the last
/// expert takes the rest, it has all rows from offsets_E1[E - 1] on.
struct PackedExpertProduct {
  Tensor y;
  PreparedRows x;
  PackedBank w;
  Tensor slot_of_R = {};
  bool last_takes_rest = false;
};

/// All of `products` on a GPU, where `offsets_E1` (as in ops/linear.h) is known to nobody else. Rows have the bits that
/// packed_linear() gives them.
void packed_expert_linear(Stream& s, std::span<const PackedExpertProduct> products, const Tensor& offsets_E1);

namespace cpu {
size_t packed_bytes(Format format, int64_t rows, int64_t cols);
decltype(sluice::packed_read_bytes) packed_read_bytes;
decltype(sluice::pack_matrix) pack_matrix;
decltype(sluice::prepared_row_bytes) prepared_row_bytes;
decltype(sluice::prepare_rows) prepare_rows;
decltype(sluice::packed_linear) packed_linear;
}  // namespace cpu
namespace cuda {
decltype(sluice::pack_matrix) pack_matrix;
decltype(sluice::prepare_rows) prepare_rows;
decltype(sluice::packed_linear) packed_linear;
decltype(sluice::packed_expert_linear) packed_expert_linear;
}  // namespace cuda

}  // namespace sluice
