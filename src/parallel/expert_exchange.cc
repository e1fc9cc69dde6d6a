#include "parallel/expert_exchange.h"

#include <numeric>

#include "base/transfer.h"
#include "ops/moe.h"

namespace sluice {
namespace {

/// Neighbouring ranges of so many rows.
ByteRanges ranges(const Tensor& t, const std::vector<int64_t>& rows) {
  const int64_t bytes = t.cols() * static_cast<int64_t>(dtype_size(t.dtype));
  ByteRanges r{bytes_of(t).data(), {}, {}};
  int64_t begin = 0;
  for (const int64_t n : rows) {
    r.offset.push_back(begin * bytes);
    r.count.push_back(n * bytes);
    begin += n;
  }
  return r;
}

}  // namespace

ExpertExchange::ExpertExchange(Communicator& ranks, int64_t experts) : ranks_(ranks), experts_(experts) {
  check(experts % ranks.size() == 0, "ExpertExchange: expected as many experts on every rank");
}

ExchangePlan ExpertExchange::plan(Stream& s, Arena& a, const Tensor& offsets_E1, int64_t R) {
  ExchangePlan plan;
  plan.offsets = a.alloc(DType::i32, {num_experts() + 1});
  std::vector<int32_t> expert_of;  // of each arriving row
  if (!s.is_dry()) expert_of = exchange_counts(s, plan, offsets_E1);
  const int64_t L = s.is_dry() ? R * ranks_.size() : static_cast<int64_t>(expert_of.size());
  plan.arrival_L = a.alloc(DType::i32, {L});
  plan.place_L = a.alloc(DType::i32, {L});
  const size_t mark = a.mark();
  const Tensor choice_L1 = a.alloc(DType::i32, {L, 1});
  upload(s, choice_L1, Tensor(expert_of.data(), DType::i32, {L, 1}));
  moe_permute(s, plan.offsets, plan.place_L.reshape({L, 1}), plan.arrival_L, choice_L1);
  a.release(mark);
  return plan;
}

std::vector<int32_t> ExpertExchange::exchange_counts(Stream& s, ExchangePlan& plan, const Tensor& offsets_E1) {
  const size_t P = static_cast<size_t>(ranks_.size()), E = static_cast<size_t>(num_experts());
  std::vector<int32_t> offset(P * E + 1), expert_of;
  download(s, Tensor(offset.data(), DType::i32, {experts_ + 1}), offsets_E1);
  std::vector<int64_t> out(P * E), in(P * E);  // rows by rank and its experts; of this rank's experts by source
  for (size_t e = 0; e < out.size(); ++e) out[e] = offset[e + 1] - offset[e];
  const std::vector<int64_t> one_each(P, 1);
  const auto counts = [&](std::vector<int64_t>& v) {
    return ranges(Tensor(v.data(), DType::i64, {static_cast<int64_t>(P), num_experts()}), one_each);
  };
  ranks_.all_to_all(counts(in), counts(out)).wait();
  for (size_t r = 0; r < P; ++r) {
    plan.sent.push_back(std::accumulate(&out[r * E], &out[r * E] + E, int64_t{0}));
    plan.received.push_back(std::accumulate(&in[r * E], &in[r * E] + E, int64_t{0}));
    for (size_t e = 0; e < E; ++e)
      expert_of.insert(expert_of.end(), static_cast<size_t>(in[r * E + e]), static_cast<int32_t>(e));
  }
  return expert_of;
}

Tensor ExpertExchange::dispatch(Stream& s, Arena& a, const ExchangePlan& plan, const Tensor& x_RD) {
  const Tensor x_LD = a.alloc(x_RD.dtype, {plan.rows(), x_RD.cols()});
  const size_t mark = a.mark();
  const Tensor arrived_LD = a.alloc(x_RD.dtype, {plan.rows(), x_RD.cols()});
  if (!s.is_dry()) ranks_.all_to_all(ranges(arrived_LD, plan.received), ranges(x_RD, plan.sent)).wait();
  moe_gather_forward(s, x_LD, arrived_LD, plan.arrival_L, 1);
  a.release(mark);
  return x_LD;
}

void ExpertExchange::combine(Stream& s, Arena& a, const ExchangePlan& plan, Tensor y_RD, const Tensor& y_LD) {
  const size_t mark = a.mark();
  const Tensor leaving_LD = a.alloc(y_LD.dtype, {plan.rows(), y_LD.cols()});
  moe_gather_forward(s, leaving_LD, y_LD, plan.place_L, 1);
  if (!s.is_dry()) ranks_.all_to_all(ranges(y_RD, plan.sent), ranges(leaving_LD, plan.received)).wait();
  a.release(mark);
}

}  // namespace sluice
