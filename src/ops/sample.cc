#include "ops/sample.h"

#include "ops/dispatch.h"

namespace sluice {
namespace {

void check_logits(const Tensor& logits, int64_t limit) {
  check(logits.dtype == DType::f32 && logits.packed() && limit >= 1 && limit <= logits.cols(),
        "sample: expected logits (T, V) f32, packed, and 1 <= limit <= V");
}

/// Empty, or of this type.
bool is_vector(const Tensor& t, DType dtype) { return !t || (t.dtype == dtype && t.rank == 1); }

void check_rule(int64_t limit, const SamplingRule& rule, const SamplingState& state) {
  check(rule.temperature >= 0 && rule.top_k >= 0 && rule.top_p > 0 && rule.top_p <= 1 && rule.min_p >= 0 &&
            rule.min_p <= 1 && rule.repetition_penalty > 0,
        "sample: expected temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, penalty > 0");
  check(is_vector(state.seen, DType::i32) && is_vector(state.counts, DType::i32) &&
            (!state.counts || state.counts.size() == state.seen.size()),
        "sample: expected seen and counts (N) i32");
  check(is_vector(state.bias_ids, DType::i32) && is_vector(state.biases, DType::f32) &&
            (!state.bias_ids || state.bias_ids.size() == state.biases.size()),
        "sample: expected bias_ids (B) i32 and biases (B) f32");
  check(is_vector(state.allowed, DType::i64) && (!state.allowed || state.allowed.size() >= (limit + 63) / 64),
        "sample: expected allowed i64, a bit for every id below the limit");
}

}  // namespace

void argmax(Stream& s, Tensor ids_T, const Tensor& logits, int64_t limit) {
  check_logits(logits, limit);
  check(ids_T.dtype == DType::i32 && ids_T.size() == logits.rows(), "argmax: expected ids (T) i32");
  dispatch<cpu::argmax, cuda::argmax>(s, ids_T, logits, limit);
}

void sampling_distribution(Stream& s, Tensor p, const Tensor& logits, int64_t limit, const SamplingRule& rule,
                           const SamplingState& state) {
  check_logits(logits, limit);
  check(same(p, logits) && p.packed(), "sampling_distribution: expected p as logits");
  check_rule(limit, rule, state);
  dispatch<cpu::sampling_distribution, cuda::sampling_distribution>(s, p, logits, limit, rule, state);
}

int32_t draw(Stream& s, Tensor work, const Tensor& logits, int64_t limit, const SamplingRule& rule,
             const SamplingState& state, const Rng& noise) {
  check_logits(logits, limit);
  check(logits.rows() == 1 && same(work, logits) && work.packed(), "draw: expected logits (1, V), and work as these");
  check_rule(limit, rule, state);
  return cpu::draw(s, work, logits, limit, rule, state, noise);
}

void log_sum_exp(Stream& s, Tensor total_T, const Tensor& logits) {
  check_logits(logits, 1);
  check(total_T.dtype == DType::f32 && total_T.size() == logits.rows(), "log_sum_exp: expected total (T) f32");
  dispatch<cpu::log_sum_exp, cuda::log_sum_exp>(s, total_T, logits);
}

}  // namespace sluice
