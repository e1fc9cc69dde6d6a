#include "train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/transfer.h"
#include "model/head.h"
#include "ops/elementwise.h"
#include "train/batch.h"
#include "train/metrics.h"

namespace sluice {
namespace {

/// Main and first draft predictions of a batch, summed into `r`; returns bytes behind the targets.
struct Tally {
  EvalResult result;
  int64_t bytes = 0, drafts = 0, accepted = 0;
};

/// Elements of a tensor on the stream's device.
template <class T>
std::vector<T> read(Stream& s, const Tensor& t) {
  std::vector<T> values(static_cast<size_t>(t.size()));
  download(s, Tensor(values.data(), t.dtype, {t.rows(), t.cols()}), t);
  return values;
}

void tally_drafts(Stream& s, Arena& a, const Model& m, const ModelBatch& b, const PassResult& pass,
                  const std::vector<int32_t>& argmax_T, Tally& tally) {
  const int64_t S = b.tokens, n = S - 1;
  const Tensor draft = a.alloc(DType::i32, {b.batch * n}), loss = a.alloc(DType::f32, {b.batch * n});
  head_loss_forward(s, a, draft, {pass.mtp_normed[0], b.mtp_target[0], loss}, m.weights.head);
  const std::vector<int32_t> drafts = read<int32_t>(s, draft), targets = read<int32_t>(s, b.mtp_target[0]);
  for (int64_t i = 0; i < b.batch * n; ++i) {
    if (targets[static_cast<size_t>(i)] < 0) continue;
    ++tally.drafts;  // the draft for token i + 2, made from the true token i + 1, against the main model's choice there
    tally.accepted += drafts[static_cast<size_t>(i)] == argmax_T[static_cast<size_t>(i / n * S + i % n + 1)];
  }
}

void tally_batch(Stream& s, Arena& a, const Model& m, const Batch& batch, const Tensor& counts,
                 const std::vector<int32_t>& byte_lengths, Tally& tally) {
  const size_t mark = a.mark();
  const ModelBatch b = device_batch(s, a, batch, 0, batch.rows, static_cast<int64_t>(m.weights.mtp.size()));
  const PassResult pass = model_forward(s, a, m, b, {}, counts);
  const int64_t T = b.batch * b.tokens;
  const Tensor argmax = a.alloc(DType::i32, {T}), loss = a.alloc(DType::f32, {T});
  head_loss_forward(s, a, argmax, {pass.normed_TD, b.target_T, loss}, m.weights.head);
  const std::vector<int32_t> targets = read<int32_t>(s, b.target_T);
  const std::vector<float> losses = read<float>(s, loss);
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    ++tally.result.targets;
    tally.result.nats += static_cast<double>(losses[t]);
    tally.bytes += byte_lengths[static_cast<size_t>(targets[t])];
  }
  if (!pass.mtp_normed.empty()) tally_drafts(s, a, m, b, pass, read<int32_t>(s, argmax), tally);
  a.release(mark);
}

}  // namespace

EvalResult evaluate(Stream& s, Arena& a, const Model& m, const TokenRange& range, int64_t seq_len, int64_t max_tokens,
                    const std::vector<int32_t>& byte_lengths) {
  TokenRange part = range;
  if (max_tokens > 0) part.end = std::min(part.end, part.begin + max_tokens);
  const EvalWindows windows(part, seq_len, seq_len / 2);
  const size_t mark = a.mark();
  const int64_t routers = num_routers(m.weights);
  const Tensor counts =
      a.alloc(DType::i64, {std::max<int64_t>(routers, 1), std::max<int64_t>(m.config.n_routed_experts, 1)});
  zero(s, counts);
  Tally tally;
  const int64_t rows = evaluation_rows(seq_len);
  for (int64_t w = 0; w < windows.size(); w += rows)
    tally_batch(s, a, m, windows.batch(w, std::min(rows, windows.size() - w)), routers ? counts : Tensor(),
                byte_lengths, tally);
  EvalResult& r = tally.result;
  if (tally.bytes) r.bits_per_byte = r.nats / std::numbers::ln2 / static_cast<double>(tally.bytes);
  if (tally.drafts) r.mtp_acceptance = static_cast<double>(tally.accepted) / static_cast<double>(tally.drafts);
  if (routers) {
    std::vector<std::vector<int64_t>> load;
    for (int64_t l = 0; l < routers; ++l) load.push_back(read<int64_t>(s, counts.slice_rows(l, 1)));
    r.max_vio = max_vio(load);
  }
  a.release(mark);
  return r;
}

}  // namespace sluice
