// The order in which training sees packed tokens: deterministic, independent of the number of ranks, resumable exactly.
//
// A source is cut into windows of seq_len + 1 tokens at a stride of seq_len: every token but the first is predicted
// once. In epoch e the cut is shifted by a pseudo-random offset (0 in the first) and the windows come in a
// pseudo-random order: a Feistel network permutes [0, windows), so nothing is stored however large the source.
// With several sources, the next window comes from the one that lags most behind its weight.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "data/token_set.h"

namespace sluice {

/// B windows of S + 1 tokens, row-major (B, S+1).
struct Batch {
  int64_t rows = 0, cols = 0;  // B and S + 1
  std::vector<int32_t> ids;    // token ids
  std::vector<int32_t> first;  // index in the row of the first token that this one sees: 0 unless a sample is isolated
  std::vector<uint8_t> loss;   // 1 if the token may be a target
};

/// targets (B, S+1): of column t the id at t + shift, or -1 where that is beyond the row, not in the loss, or of a
/// sample that t does not belong to. shift 1 for the main head, 1 + k for MTP module k (specification 4.1).
void fill_targets(const Batch& batch, int64_t shift, std::span<int32_t> targets);

/// One source of training windows.
struct SamplerSource {
  TokenRange range;
  double weight = 0;  // share of the windows, relative to the other sources; 0 in all: by their number of windows
};

struct SamplerOptions {
  int64_t seq_len = 0;  // S >= 1; windows have S + 1 tokens
  uint64_t seed = 0;
  int rank = 0, ranks = 1;  // this process takes rows [rank, rank + 1) * B / ranks of every global batch
};

class Sampler {
 public:
  /// Throws Error when a source has fewer than seq_len + 1 tokens (says how many), weights are negative, not finite or
  /// given for some sources only, or there is no source.
  Sampler(std::vector<SamplerSource> sources, const SamplerOptions& options);

  /// The next global batch of `global_rows` windows, of which this rank's rows are returned; all ranks advance alike.
  /// `global_rows` must be a multiple of `ranks` and may change from call to call.
  Batch next(int64_t global_rows);

  /// Windows drawn so far, over all sources and ranks.
  int64_t drawn() const;
  /// Windows of source `i` in its first epoch.
  int64_t windows(size_t i) const;
  /// Epochs of source `i` seen so far, with fraction.
  double epochs(size_t i) const;

  /// Everything needed to go on: {version, seed, seq_len, number of sources} and per source {fingerprint, begin, end,
  /// epoch, position in the epoch, windows drawn}. The same on all ranks.
  std::vector<int64_t> state() const;
  /// Continues exactly after the state() that was saved, with any number of ranks. Throws Error when it belongs to
  /// other data, another seq_len or another seed, or is malformed.
  void set_state(std::span<const int64_t> state);

 private:
  struct Source {
    TokenRange range;
    double weight = 0;
    int64_t epoch = 0, position = 0, drawn = 0;
  };
  /// Where the windows of an epoch lie: window i covers tokens [begin + i S, begin + i S + S].
  struct Epoch {
    int64_t begin, windows;
  };
  Epoch epoch_of(const Source& source, size_t i) const;
  size_t pick_source() const;
  /// Token at which the next window of source `i` begins; advances the source.
  int64_t advance(size_t i);

  std::vector<Source> sources_;
  SamplerOptions options_;
};

/// Held-out data in order: every token of a range but the first is a target exactly once.
class EvalWindows {
 public:
  /// Windows of up to seq_len + 1 tokens, of which all but the first begin with `context` tokens that were targets
  /// before and are not counted again (0 <= context < seq_len). Throws Error when the range has fewer than 2 tokens.
  EvalWindows(TokenRange range, int64_t seq_len, int64_t context = 0);

  /// Number of windows.
  int64_t size() const;
  /// Windows [begin, begin + rows). The last one may be short: it is padded with id 0, which is no target.
  Batch batch(int64_t begin, int64_t rows) const;

 private:
  TokenRange range_;
  int64_t seq_len_, context_;
};

}  // namespace sluice
