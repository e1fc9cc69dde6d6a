#include "parallel/expert_exchange.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/transfer.h"
#include "ops/elementwise.h"
#include "ops/moe.h"
#include "ops/quant.h"

namespace sluice {
namespace {

constexpr int64_t kScaleColumns = 128;

/// For each rank `rows` rows of `t` from `first` on.
ByteRanges ranges(const Tensor& t, const std::vector<int64_t>& first, const std::vector<int64_t>& rows) {
  const int64_t bytes = t.cols() * static_cast<int64_t>(dtype_size(t.dtype));
  ByteRanges r{bytes_of(t).data(), {}, {}};
  for (size_t i = 0; i < rows.size(); ++i) {
    r.offset.push_back(first[i] * bytes);
    r.count.push_back(rows[i] * bytes);
  }
  return r;
}

/// Where neighbouring ranges begin.
std::vector<int64_t> begins(const std::vector<int64_t>& rows) {
  std::vector<int64_t> begin(rows.size());
  std::exclusive_scan(rows.begin(), rows.end(), begin.begin(), int64_t{0});
  return begin;
}

int64_t overlap(int64_t begin, int64_t end, int64_t from, int64_t to) {
  return std::max<int64_t>(std::min(end, to) - std::max(begin, from), 0);
}

}  // namespace

ExpertExchange::ExpertExchange(Communicator& ranks, int64_t experts, const ExchangeOptions& options)
    : ranks_(ranks), experts_(experts), options_(options) {
  check(experts % ranks.size() == 0, "ExpertExchange: expected as many experts on every rank");
  check(options.capacity > 0, "ExpertExchange: expected room for rows");
}

int64_t ExpertExchange::capacity(int64_t rows) const {
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(options_.capacity * static_cast<double>(rows))));
}

void ExpertExchange::begin_plan(Stream& s, ExchangePlan& plan, const Tensor& offsets_E1) {
  if (s.is_dry()) return;
  const size_t P = static_cast<size_t>(ranks_.size()), E = static_cast<size_t>(experts_);
  std::vector<int32_t> offset(E + 1);
  download(s, Tensor(offset.data(), DType::i32, {experts_ + 1}), offsets_E1);
  plan.own_E.resize(E);
  for (size_t e = 0; e < E; ++e) plan.own_E[e] = offset[e + 1] - offset[e];
  plan.counts_PE.resize(P * E);
  const std::vector<int64_t> one_each(P, 1);
  plan.arriving = ranks_.all_to_all(
      ranges(Tensor(plan.counts_PE.data(), DType::i64, {static_cast<int64_t>(P), experts_}), begins(one_each),
             one_each),
      ranges(Tensor(plan.own_E.data(), DType::i64, {1, experts_}), std::vector<int64_t>(P), one_each));
}

int64_t ExpertExchange::rows_for(const ExchangePlan& plan, int rank) const {
  int64_t rows = 0;
  for (int from = 0; from < ranks_.size(); ++from) {
    const int64_t* counts = &plan.counts_PE[static_cast<size_t>(from * experts_ + rank * num_experts())];
    rows += std::accumulate(counts, counts + num_experts(), int64_t{0});
  }
  return rows;
}

// Rounds cut the rows of a rank in the order of its experts, so that what a rank sends there in a round are neighbours.
std::vector<std::vector<int64_t>> ExpertExchange::parts(const ExchangePlan& plan, int from, int to,
                                                        int64_t capacity) const {
  std::vector<std::vector<int64_t>> part(plan.rounds.size(), std::vector<int64_t>(static_cast<size_t>(num_experts())));
  int64_t begin = 0;
  for (int64_t e = 0; e < num_experts(); ++e)
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const int64_t n = plan.counts_PE[static_cast<size_t>(rank * experts_ + to * num_experts() + e)];
      for (size_t i = 0; rank == from && i < part.size(); ++i) {
        const int64_t first = static_cast<int64_t>(i) * capacity;
        part[i][static_cast<size_t>(e)] = overlap(begin, begin + n, first, first + capacity);
      }
      begin += n;
    }
  return part;
}

void ExpertExchange::end_plan(Stream& s, Arena& a, ExchangePlan& plan, int64_t R) {
  if (s.is_dry()) {
    plan.rounds.resize(1);
    plan.rounds[0].expert_L.resize(static_cast<size_t>(std::min(R * ranks_.size(), capacity(R))));
    return prepare(s, a, plan.rounds[0]);
  }
  plan.arriving.wait();
  const int64_t all = std::accumulate(plan.counts_PE.begin(), plan.counts_PE.end(), int64_t{0});
  const int64_t most = capacity((all + ranks_.size() - 1) / ranks_.size());
  int64_t rounds = 1;
  for (int rank = 0; rank < ranks_.size(); ++rank) rounds = std::max(rounds, (rows_for(plan, rank) + most - 1) / most);
  plan.rounds.resize(static_cast<size_t>(rounds));
  int64_t first = 0;
  for (int rank = 0; rank < ranks_.size(); ++rank) {
    const auto out = parts(plan, ranks_.rank(), rank, most), in = parts(plan, rank, ranks_.rank(), most);
    for (size_t i = 0; i < plan.rounds.size(); ++i) {
      ExchangeRound& round = plan.rounds[i];
      round.first_sent.push_back(first);
      round.sent.push_back(std::accumulate(out[i].begin(), out[i].end(), int64_t{0}));
      first += round.sent.back();
      round.received.push_back(std::accumulate(in[i].begin(), in[i].end(), int64_t{0}));
      for (size_t e = 0; e < in[i].size(); ++e)
        round.expert_L.insert(round.expert_L.end(), static_cast<size_t>(in[i][e]), static_cast<int32_t>(e));
    }
  }
  if (!plan.is_in_rounds()) prepare(s, a, plan.rounds[0]);
}

void ExpertExchange::prepare(Stream& s, Arena& a, ExchangeRound& round) {
  const int64_t L = static_cast<int64_t>(round.expert_L.size());
  round.offsets = a.alloc(DType::i32, {num_experts() + 1});
  round.arrival_L = a.alloc(DType::i32, {L});
  round.place_L = a.alloc(DType::i32, {L});
  const size_t mark = a.mark();
  const Tensor choice_L1 = a.alloc(DType::i32, {L, 1});
  upload(s, choice_L1, Tensor(round.expert_L.data(), DType::i32, {L, 1}));
  moe_permute(s, round.offsets, round.place_L.reshape({L, 1}), round.arrival_L, choice_L1);
  a.release(mark);
}

ExchangeRows ExpertExchange::begin_dispatch(Stream& s, Arena& a, const ExchangeRound& round, const Tensor& x_RD) {
  const int64_t L = round.rows(), R = x_RD.rows(), D = x_RD.cols();
  ExchangeRows rows;
  const auto send = [&](const Tensor& in, const Tensor& out) {
    if (!s.is_dry())
      rows.transfers.push_back(ranks_.all_to_all(ranges(in, begins(round.received), round.received),
                                                 ranges(out, round.first_sent, round.sent)));
  };
  rows.arriving = a.alloc(options_.fp8_out ? DType::f8_e4m3 : x_RD.dtype, {L, D});
  if (!options_.fp8_out) {
    send(rows.arriving, x_RD);
    return rows;
  }
  const int64_t groups = (D + kScaleColumns - 1) / kScaleColumns;
  rows.scales = a.f32(L, groups);
  rows.decoded = a.alloc(x_RD.dtype, {L, D});
  const Tensor codes = a.alloc(DType::f8_e4m3, {R, D}), scales = a.f32(R, groups);
  quantize_rows(s, codes, scales, x_RD, true);
  send(rows.arriving, codes);
  send(rows.scales, scales);
  return rows;
}

void ExpertExchange::end_dispatch(Stream& s, const ExchangeRound& round, const ExchangeRows& rows, Tensor x_LD) {
  rows.wait();
  if (rows.scales) dequantize_rows(s, rows.decoded, rows.arriving, rows.scales);
  moe_gather_forward(s, x_LD, rows.scales ? rows.decoded : rows.arriving, round.arrival_L, 1);
}

ExchangeRows ExpertExchange::begin_combine(Stream& s, Arena& a, const ExchangeRound& round, Tensor y_RD,
                                           const Tensor& y_LD) {
  const bool is_rounded = options_.bf16_back && y_LD.dtype == DType::f32;
  ExchangeRows rows;
  rows.arriving = is_rounded ? a.alloc(DType::bf16, {y_RD.rows(), y_RD.cols()}) : y_RD;
  Tensor leaving_LD = a.alloc(y_LD.dtype, {y_LD.rows(), y_LD.cols()});
  moe_gather_forward(s, leaving_LD, y_LD, round.place_L, 1);
  if (is_rounded) {
    const Tensor rounded_LD = a.alloc(DType::bf16, {y_LD.rows(), y_LD.cols()});
    copy(s, rounded_LD, leaving_LD);
    leaving_LD = rounded_LD;
  }
  if (!s.is_dry())
    rows.transfers.push_back(ranks_.all_to_all(ranges(rows.arriving, round.first_sent, round.sent),
                                               ranges(leaving_LD, begins(round.received), round.received)));
  return rows;
}

void ExpertExchange::end_combine(Stream& s, const ExchangeRound& round, const ExchangeRows& rows, Tensor y_RD) {
  rows.wait();
  if (rows.arriving.dtype == y_RD.dtype) return;
  for (size_t i = 0; i < round.sent.size(); ++i)
    copy(s, y_RD.slice_rows(round.first_sent[i], round.sent[i]),
         rows.arriving.slice_rows(round.first_sent[i], round.sent[i]));
}

}  // namespace sluice
