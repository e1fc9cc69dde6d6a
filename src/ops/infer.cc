#include "ops/infer.h"

namespace sluice {
namespace {

bool is_f32(const Tensor& t, int64_t rows, int64_t cols) {
  return t.dtype == DType::f32 && t.rows() == rows && t.cols() == cols;
}

bool is_packed_f32(const Tensor& t, int64_t rows, int64_t cols) { return is_f32(t, rows, cols) && t.packed(); }

void check_positions(const Tensor& position_T, int64_t T) {
  check(position_T.dtype == DType::i32 && position_T.size() == T, "infer: expected positions (T) i32");
}

void check_cache(const LatentCache& cache, int64_t width) {
  check(cache.rows.dtype == DType::f32 && cache.rows.packed() && cache.rows.cols() == width,
        "infer: expected cache rows (P * 64, latent + rope) f32");
  check(cache.pages.dtype == DType::i32, "infer: expected pages i32");
}

void check_kv_b(const Matrix& kv_b, const LatentShape& a) {
  check(kv_b.rows == a.heads * (a.nope + a.value) && kv_b.cols == a.latent,
        "infer: expected kv_b (H (nope + value), latent)");
}

}  // namespace

void infer_linear(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out) {
  check(is_f32(y, x.rows(), w.rows) && is_f32(x, y.rows(), w.cols), "infer_linear: expected y (T, N), x (T, K) f32");
  if (!s.is_dry()) cpu::infer_linear(s, y, x, w, out);
}

void infer_grouped_linear(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets_E1, ExpertBank w) {
  check(!w.empty() && offsets_E1.dtype == DType::i32 && offsets_E1.size() == static_cast<int64_t>(w.size()) + 1,
        "infer_grouped_linear: expected offsets (E + 1) i32");
  for (const Matrix& m : w)
    check(is_f32(y, x.rows(), m.rows) && is_f32(x, y.rows(), m.cols),
          "infer_grouped_linear: expected y (R, N), x (R, K) f32");
  if (!s.is_dry()) cpu::infer_grouped_linear(s, y, x, offsets_E1, w);
}

void infer_cache_rows(Stream& s, const LatentCache& cache, const Tensor& x_TA, const Tensor& position_T) {
  check_cache(cache, x_TA.cols());
  check_positions(position_T, x_TA.rows());
  check(x_TA.dtype == DType::f32, "infer_cache_rows: expected f32");
  if (!s.is_dry()) cpu::infer_cache_rows(s, cache, x_TA, position_T);
}

void infer_absorb_query(Stream& s, Tensor qa, const Tensor& q, const Matrix& kv_b, const LatentShape& a) {
  check_kv_b(kv_b, a);
  check(is_packed_f32(qa, q.rows(), a.heads * a.row()) && is_packed_f32(q, qa.rows(), a.heads * (a.nope + a.rope)),
        "infer_absorb_query: expected qa (T, H (latent + rope)), q (T, H (nope + rope))");
  if (!s.is_dry()) cpu::infer_absorb_query(s, qa, q, kv_b, a);
}

void infer_attention(Stream& s, Tensor u, const Tensor& qa, const LatentCache& cache, const Tensor& position_T,
                     const LatentShape& a) {
  check_cache(cache, a.row());
  check_positions(position_T, u.rows());
  check(is_packed_f32(u, qa.rows(), a.heads * a.latent) && is_packed_f32(qa, u.rows(), a.heads * a.row()),
        "infer_attention: expected u (T, H latent), qa (T, H (latent + rope))");
  if (!s.is_dry()) cpu::infer_attention(s, u, qa, cache, position_T, a);
}

void infer_expand_value(Stream& s, Tensor o, const Tensor& u, const Matrix& kv_b, const LatentShape& a) {
  check_kv_b(kv_b, a);
  check(is_packed_f32(o, u.rows(), a.heads * a.value) && is_packed_f32(u, o.rows(), a.heads * a.latent),
        "infer_expand_value: expected o (T, H value), u (T, H latent)");
  if (!s.is_dry()) cpu::infer_expand_value(s, o, u, kv_b, a);
}

}  // namespace sluice
