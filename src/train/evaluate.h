// Loss on held-out text.
#pragma once
#include <algorithm>
#include <vector>

#include "data/sampler.h"
#include "model/model.h"

namespace sluice {

struct EvalResult {
  int64_t targets = 0;
  double nats = 0;             // sum of the main head's losses
  double bits_per_byte = 0;    // of the text behind the targets
  double mtp_acceptance = -1;  // share of first MTP drafts that equal the main model's greedy choice; -1: no module
  double max_vio = -1;         // over the whole set (specification 3.7); -1: no experts
  double loss() const { return targets ? nats / static_cast<double>(targets) : 0; }
};

/// Sequences that are evaluated at once: few tokens, so that evaluating takes no more memory than training.
inline int64_t evaluation_rows(int64_t seq_len) { return std::clamp<int64_t>(4096 / seq_len, 1, 8); }

/// Evaluates on at most `max_tokens` (0: all) of `range`, in windows of seq_len + 1 tokens that overlap by half, so
/// that every target but the first few is predicted from at least seq_len / 2 tokens. `byte_lengths`: text bytes per
/// id.
EvalResult evaluate(Stream& s, Arena& a, const Model& m, const TokenRange& range, int64_t seq_len, int64_t max_tokens,
                    const std::vector<int32_t>& byte_lengths);

}  // namespace sluice
