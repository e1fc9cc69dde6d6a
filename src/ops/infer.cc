#include "ops/infer.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

bool is_f32(const Tensor& t, int64_t rows, int64_t cols) {
  return t.dtype == DType::f32 && t.rows() == rows && t.cols() == cols;
}

bool is_packed_f32(const Tensor& t, int64_t rows, int64_t cols) { return is_f32(t, rows, cols) && t.packed(); }

bool is_i32(const Tensor& t) { return t.dtype == DType::i32; }

void check_places(const CachePlaces& p, int64_t T) {
  check(is_i32(p.position_T) && p.position_T.size() == T && is_i32(p.sequence_T) && p.sequence_T.size() == T &&
            is_i32(p.pages_SP),
        "infer: expected positions (T), sequences (T) and pages (S, P) i32");
}

void check_cache(const Stream& s, const Tensor& rows, int64_t width) {
  check(rows.dtype == DType::f32 || (rows.dtype == DType::bf16 && s.is_cuda()),
        "infer: expected cache rows in f32, or on a GPU in bf16");
  check(rows.packed() && rows.cols() == width, "infer: expected cache rows (P * 64, latent + rope)");
}

void check_kv_b(const Matrix& kv_b, const LatentShape& a) {
  check(kv_b.rows == a.heads * (a.nope + a.value) && kv_b.cols == a.latent,
        "infer: expected kv_b (H (nope + value), latent)");
}

}  // namespace

void infer_cache_rows(Stream& s, Tensor rows, const Tensor& x_TA, const CachePlaces& places) {
  check_cache(s, rows, x_TA.cols());
  check_places(places, x_TA.rows());
  check(x_TA.dtype == DType::f32, "infer_cache_rows: expected f32");
  dispatch<cpu::infer_cache_rows, cuda::infer_cache_rows>(s, rows, x_TA, places);
}

void infer_absorb_query(Stream& s, Tensor qa, const Tensor& q, const Matrix& kv_b, const LatentShape& a) {
  check_kv_b(kv_b, a);
  check(is_packed_f32(qa, q.rows(), a.heads * a.row()) && is_packed_f32(q, qa.rows(), a.heads * (a.nope + a.rope)),
        "infer_absorb_query: expected qa (T, H (latent + rope)), q (T, H (nope + rope))");
  dispatch<cpu::infer_absorb_query, cuda::infer_absorb_query>(s, qa, q, kv_b, a);
}

void infer_attention(Stream& s, Tensor u, const Tensor& qa, const Tensor& rows, const CachePlaces& places,
                     const LatentShape& a) {
  check_cache(s, rows, a.row());
  check_places(places, u.rows());
  check(is_packed_f32(u, qa.rows(), a.heads * a.latent) && is_packed_f32(qa, u.rows(), a.heads * a.row()),
        "infer_attention: expected u (T, H latent), qa (T, H (latent + rope))");
  dispatch<cpu::infer_attention, cuda::infer_attention>(s, u, qa, rows, places, a);
}

void infer_prompt_attention(Stream& s, Tensor o, const Tensor& q, const Tensor& rows, const Tensor& pages_P,
                            int64_t begin, const Matrix& kv_b, const LatentShape& a) {
  check_cache(s, rows, a.row());
  check_kv_b(kv_b, a);
  check(is_packed_f32(o, q.rows(), a.heads * a.value) && is_packed_f32(q, o.rows(), a.heads * (a.nope + a.rope)),
        "infer_prompt_attention: expected o (T, H value), q (T, H (nope + rope))");
  check(begin >= 0 && is_i32(pages_P) && pages_P.packed(), "infer_prompt_attention: expected pages i32");
  dispatch<cpu::infer_prompt_attention, cuda::infer_prompt_attention>(s, o, q, rows, pages_P, begin, kv_b, a);
}

void infer_expand_value(Stream& s, Tensor o, const Tensor& u, const Matrix& kv_b, const LatentShape& a) {
  check_kv_b(kv_b, a);
  check(is_packed_f32(o, u.rows(), a.heads * a.value) && is_packed_f32(u, o.rows(), a.heads * a.latent),
        "infer_expand_value: expected o (T, H value), u (T, H latent)");
  dispatch<cpu::infer_expand_value, cuda::infer_expand_value>(s, o, u, kv_b, a);
}

}  // namespace sluice
