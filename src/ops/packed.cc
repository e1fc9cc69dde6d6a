#include "ops/packed.h"

#include "ops/block_format.h"

namespace sluice {
namespace {

bool is_aligned(const std::byte* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

void check_packed(const PackedMatrix& w) {
  check(w.data && is_aligned(w.data) && w.rows > 0 && w.cols % block_shape(w.format).elements == 0,
        "packed: expected aligned memory and whole blocks");
}

void check_product(const PackedProduct& product) {
  const auto& [y, x, w, out] = product;
  check_packed(w);
  check(y.dtype == DType::f32 && y.rows() == x.rows && y.cols() <= w.rows && x.cols == w.cols && x.data &&
            x.kind == activations_of(w.format),
        "packed_linear: expected y (T, N) f32 and x (T, K) as the format wants it");
}

}  // namespace

bool is_packable(const Matrix& w) { return w.format != Format::f16 && w.cols % block_shape(w.format).elements == 0; }

Activations activations_of(Format format) { return is_block_format(format) ? Activations::codes : Activations::floats; }

size_t packed_bytes(Format format, int64_t rows, int64_t cols) {
  check(format != Format::f16 && cols % block_shape(format).elements == 0, "packed_bytes: expected whole blocks");
  return cpu::packed_bytes(format, rows, cols);
}

void pack_matrix(Stream& s, const PackedMatrix& out, const Matrix& w) {
  check_packed(out);
  check(out.format == w.format && out.rows == w.rows && out.cols == w.cols, "pack_matrix: expected equal shapes");
  if (!s.is_dry()) cpu::pack_matrix(s, out, w);
}

size_t prepared_row_bytes(int64_t cols, Activations kind) {
  check(kind == Activations::floats || cols % 32 == 0, "prepared_row_bytes: expected whole blocks of 32");
  return cpu::prepared_row_bytes(cols, kind);
}

PreparedRows PreparedRows::slice(int64_t begin, int64_t count) const {
  check(begin >= 0 && count >= 0 && begin + count <= rows, "PreparedRows::slice: expected rows of these");
  return {data + static_cast<size_t>(begin) * prepared_row_bytes(cols, kind), count, cols, kind};
}

void prepare_rows(Stream& s, const PreparedRows& out, const Tensor& x) {
  check(x.dtype == DType::f32 && x.rows() == out.rows && x.cols() == out.cols && is_aligned(out.data),
        "prepare_rows: expected f32 rows and aligned memory");
  if (!s.is_dry()) cpu::prepare_rows(s, out, x);
}

void packed_linear(Stream& s, std::span<const PackedProduct> products) {
  if (s.is_dry()) return;
  for (const PackedProduct& p : products) check_product(p);
  cpu::packed_linear(s, products);
}

}  // namespace sluice
