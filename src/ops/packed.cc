#include "ops/packed.h"

#include "ops/block_format.h"
#include "ops/dispatch.h"
#include "ops/gpu_packed.h"

namespace sluice {
namespace {

bool is_aligned(const std::byte* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

void check_packed(const PackedMatrix& w, const Device& device) {
  check(w.data && is_aligned(w.data) && w.rows > 0 && w.cols % block_shape(w.format).elements == 0 &&
            w.format == packed_format(w.format, device),
        "packed: expected aligned memory, whole blocks and a format of the device");
}

void check_product(const Tensor& y, const PreparedRows& x, const PackedMatrix& w, const Device& device) {
  check_packed(w, device);
  check(y.dtype == DType::f32 && y.rows() == x.rows && y.cols() <= w.rows && x.cols == w.cols && x.data &&
            x.kind == activations_of(w.format, device),
        "packed_linear: expected y (T, N) f32 and x (T, K) as the format wants it");
}

}  // namespace

bool is_packable(const Matrix& w) { return w.format != Format::f16 && w.cols % block_shape(w.format).elements == 0; }

Format packed_format(Format format, const Device& device) {
  return device.is_cuda() && is_block_format(format) ? Format::bf16 : format;
}

Activations activations_of(Format format, const Device& device) {
  if (device.is_cuda()) return format == Format::f32 ? Activations::floats : Activations::halves;
  return is_block_format(format) ? Activations::codes : Activations::floats;
}

size_t packed_bytes(Format format, int64_t rows, int64_t cols, const Device& device) {
  check(format != Format::f16 && cols % block_shape(format).elements == 0, "packed_bytes: expected whole blocks");
  return device.is_cuda() ? gpu_packed_bytes(format, rows, cols) : cpu::packed_bytes(format, rows, cols);
}

double packed_read_bytes(const PackedMatrix& w) {
  check_packed(w, {});
  return cpu::packed_read_bytes(w);
}

void pack_matrix(Stream& s, const PackedMatrix& out, const Matrix& w) {
  check_packed(out, s.device());
  check(out.format == packed_format(w.format, s.device()) && out.rows == w.rows && out.cols == w.cols,
        "pack_matrix: expected equal shapes");
  dispatch<cpu::pack_matrix, cuda::pack_matrix>(s, out, w);
}

size_t prepared_row_bytes(int64_t cols, Activations kind) {
  check(kind != Activations::codes || cols % 32 == 0, "prepared_row_bytes: expected whole blocks of 32");
  return kind == Activations::halves ? gpu_half_row_bytes(cols) : cpu::prepared_row_bytes(cols, kind);
}

PreparedRows PreparedRows::slice(int64_t begin, int64_t count) const {
  check(begin >= 0 && count >= 0 && begin + count <= rows, "PreparedRows::slice: expected rows of these");
  return {data + static_cast<size_t>(begin) * prepared_row_bytes(cols, kind), count, cols, kind};
}

void prepare_rows(Stream& s, const PreparedRows& out, const Tensor& x) {
  check(x.dtype == DType::f32 && x.rows() == out.rows && x.cols() == out.cols && is_aligned(out.data),
        "prepare_rows: expected f32 rows and aligned memory");
  dispatch<cpu::prepare_rows, cuda::prepare_rows>(s, out, x);
}

void packed_linear(Stream& s, std::span<const PackedProduct> products) {
  if (s.is_dry()) return;
  for (const PackedProduct& p : products) check_product(p.y, p.x, p.w, s.device());
  dispatch<cpu::packed_linear, cuda::packed_linear>(s, products);
}

void packed_expert_linear(Stream& s, std::span<const PackedExpertProduct> products, const Tensor& offsets_E1) {
  if (s.is_dry()) return;
  check(s.is_cuda(), "packed_expert_linear: expected a GPU");
  for (const PackedExpertProduct& p : products) {
    PreparedRows x = p.x;
    if (p.slot_of_R) {
      check(p.slot_of_R.dtype == DType::i32 && p.slot_of_R.size() % x.rows == 0 && p.y.rows() >= p.slot_of_R.size(),
            "packed_expert_linear: expected slots (T top_k) i32");
      x.rows = p.y.rows();
    }
    check_product(p.y, x, p.w.first, s.device());
    check(offsets_E1.dtype == DType::i32 && offsets_E1.size() == p.w.experts + 1 && p.w.stride % 64 == 0,
          "packed_expert_linear: expected offsets (E + 1) i32");
  }
  if constexpr (kHasCuda) cuda::packed_expert_linear(s, products, offsets_E1);
}

}  // namespace sluice
