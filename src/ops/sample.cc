#include "ops/sample.h"

namespace sluice {
namespace {

void check_logits(const Tensor& logits, int64_t limit) {
  check(logits.dtype == DType::f32 && logits.packed() && limit >= 1 && limit <= logits.cols(),
        "sample: expected logits (T, V) f32, packed, and 1 <= limit <= V");
}

}  // namespace

void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit) {
  check_logits(logits, limit);
  check(ids_T.dtype == DType::i32 && ids_T.size() == logits.rows(), "argmax: expected ids (T) i32");
  if (!s.is_dry()) cpu::argmax(s, ids_T, logits, limit);
}

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule) {
  check_logits(logits, limit);
  check(same(p, logits) && p.packed(), "sampling_distribution: expected p as logits");
  check(rule.temperature >= 0 && rule.top_k >= 0 && rule.top_p > 0 && rule.top_p <= 1,
        "sampling_distribution: expected temperature >= 0, top_k >= 0, 0 < top_p <= 1");
  if (!s.is_dry()) cpu::sampling_distribution(s, p, logits, limit, rule);
}

}  // namespace sluice
