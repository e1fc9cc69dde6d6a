#include "ops/fused.h"

#include "base/config.h"

namespace sluice {
namespace {

/// Calls `kernel` on a GPU's stream that is not dry.
template <class F>
void on_gpu(Stream& s, const char* op, F&& kernel) {
  if (s.is_dry()) return;
  check(s.is_cuda(), op);
  if constexpr (kHasCuda) kernel();
}

bool is_f32(const Tensor& t, int64_t rows, int64_t cols) {
  return t.dtype == DType::f32 && t.rows() == rows && t.cols() == cols;
}

bool are_halves(const PreparedRows& r, int64_t rows, int64_t cols) {
  return r.data && r.kind == Activations::halves && r.rows == rows && r.cols == cols;
}

}  // namespace

void norm_rows(Stream& s, const PreparedRows& halves, const PreparedRows& floats, const Tensor& x, const Tensor& w,
               float eps) {
  on_gpu(s, "norm_rows: expected a GPU", [&] {
    check(are_halves(halves, x.rows(), x.cols()) && is_f32(x, halves.rows, halves.cols) && is_f32(w, 1, x.cols()) &&
              (floats.cols == 0 || (floats.kind == Activations::floats && floats.rows == x.rows())),
          "norm_rows: expected rows (T, D), x (T, D) and w (1, D) f32");
    cuda::norm_rows(s, halves, floats, x, w, eps);
  });
}

void swiglu_rows(Stream& s, const PreparedRows& halves, const Tensor& g, const Tensor& u) {
  on_gpu(s, "swiglu_rows: expected a GPU", [&] {
    check(are_halves(halves, g.rows(), g.cols()) && is_f32(g, u.rows(), u.cols()) && is_f32(u, g.rows(), g.cols()) &&
              g.packed() && u.packed(),
          "swiglu_rows: expected rows (T, D), g and u (T, D) f32, packed");
    cuda::swiglu_rows(s, halves, g, u);
  });
}

void latent_rows(Stream& s, Tensor cache, const PreparedRows& q, const LatentInputs& in, const CachePlaces& places) {
  on_gpu(s, "latent_rows: expected a GPU", [&] {
    check(cache.dtype == DType::bf16 && cache.packed() && cache.cols() == in.raw_TA.cols() &&
              in.kv_norm.cols() < cache.cols() && are_halves(q, in.raw_TA.rows(), in.c_TQ.cols()) &&
              in.c_TQ.rows() == q.rows && in.q_norm.cols() == q.cols,
          "latent_rows: expected a cache of bf16, raw (T, latent + rope) and queries (T, Q)");
    cuda::latent_rows(s, cache, q, in, places);
  });
}

void query_rows(Stream& s, Tensor qa, const PreparedRows& nope, Tensor q, const Tensor& position_T,
                const Tensor& rope_table, const LatentShape& a) {
  on_gpu(s, "query_rows: expected a GPU", [&] {
    check(is_f32(q, position_T.size(), a.heads * (a.nope + a.rope)) && rope_table.cols() == a.rope &&
              (!qa || (is_f32(qa, qa.rows(), a.heads * a.row()) && qa.packed() &&
                       are_halves(nope, qa.rows() * a.heads, a.nope))),
          "query_rows: expected q (T, H (nope + rope)), qa (rows, H (latent + rope)) and halves (rows H, nope)");
    cuda::query_rows(s, qa, nope, q, position_T, rope_table, a);
  });
}

size_t packed_heads_bytes(const LatentShape& a) {
  const Device gpu{Device::Kind::cuda, 0};
  return static_cast<size_t>(a.heads) *
         (packed_bytes(Format::bf16, a.latent, a.nope, gpu) + packed_bytes(Format::bf16, a.value, a.latent, gpu));
}

PackedHeads pack_heads(Stream& s, std::byte* memory, const Matrix& kv_b, const LatentShape& a) {
  PackedHeads w;
  on_gpu(s, "pack_heads: expected a GPU", [&] {
    check(kv_b.format == Format::bf16 && kv_b.rows == a.heads * (a.nope + a.value) && kv_b.cols == a.latent,
          "pack_heads: expected kv_b (H (nope + value), latent) bf16");
    w = cuda::pack_heads(s, memory, kv_b, a);
  });
  return w;
}

void absorb_rows(Stream& s, Tensor qa, const PreparedRows& nope, const PackedHeads& w, const LatentShape& a) {
  on_gpu(s, "absorb_rows: expected a GPU", [&] {
    check(is_f32(qa, qa.rows(), a.heads * a.row()) && are_halves(nope, qa.rows() * a.heads, a.nope),
          "absorb_rows: expected qa (T, H (latent + rope)) and halves (T H, nope)");
    cuda::absorb_rows(s, qa, nope, w, a);
  });
}

void expand_rows(Stream& s, Tensor o, const PreparedRows& u, const PackedHeads& w, const LatentShape& a) {
  on_gpu(s, "expand_rows: expected a GPU", [&] {
    check(is_f32(o, o.rows(), a.heads * a.value) && are_halves(u, o.rows() * a.heads, a.latent),
          "expand_rows: expected o (T, H value) and halves (T H, latent)");
    cuda::expand_rows(s, o, u, w, a);
  });
}

void combine_rows(Stream& s, Tensor h, const Tensor& y_RD, const Tensor& weight_TK, const Tensor& row_of_TK) {
  on_gpu(s, "combine_rows: expected a GPU", [&] {
    const int64_t T = h.rows(), R = row_of_TK.size();
    check(is_f32(h, T, y_RD.cols()) && (y_RD.rows() == R || y_RD.rows() == R + T) && row_of_TK.rows() == T &&
              weight_TK.size() == R,
          "combine_rows: expected h (T, D), y (T K, D) or (T K + T, D), weights and rows (T, K)");
    cuda::combine_rows(s, h, y_RD, weight_TK, row_of_TK);
  });
}

void draw_rows(Stream& s, Tensor ids_T, const Tensor& logits, const Tensor& keys, int64_t limit) {
  on_gpu(s, "draw_rows: expected a GPU", [&] {
    check(ids_T.dtype == DType::i32 && ids_T.size() == logits.rows() && logits.dtype == DType::f32 &&
              keys.dtype == DType::i32 && keys.size() == 3 * logits.rows() && limit >= 1 && limit <= logits.cols(),
          "draw_rows: expected ids (T) i32, logits (T, V) f32, keys (T, 3) i32, 1 <= limit <= V");
    cuda::draw_rows(s, ids_T, logits, keys, limit);
  });
}

}  // namespace sluice
