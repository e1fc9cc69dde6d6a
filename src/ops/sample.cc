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

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const Tensor& seen) {
  check_logits(logits, limit);
  check(same(p, logits) && p.packed(), "sampling_distribution: expected p as logits");
  check(rule.temperature >= 0 && rule.top_k >= 0 && rule.top_p > 0 && rule.top_p <= 1 && rule.min_p >= 0 &&
            rule.min_p <= 1 && rule.repetition_penalty > 0,
        "sampling_distribution: expected temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, penalty > 0");
  check(!seen || (seen.dtype == DType::i32 && seen.packed()), "sampling_distribution: expected seen i32, packed");
  if (!s.is_dry()) cpu::sampling_distribution(s, p, logits, limit, rule, seen);
}

}  // namespace sluice
