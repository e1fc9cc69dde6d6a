#include "engine/expert_ranks.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace sluice {
namespace {

int64_t count_rows(const std::vector<RowRange>& ranges) {
  int64_t rows = 0;
  for (const RowRange& r : ranges) rows += r.count;
  return rows;
}

/// fn(range, where its rows begin among all of the list).
template <class Fn>
void each_range(const std::vector<RowRange>& ranges, Fn&& fn) {
  int64_t at = 0;
  for (const RowRange& r : ranges) {
    fn(r, at);
    at += r.count;
  }
}

void copy_rows(float* to, const float* from, int64_t floats) {
  std::memcpy(to, from, static_cast<size_t>(floats) * sizeof(float));
}

}  // namespace

ExpertRanks::ExpertRanks(Communicator& ranks, const ModelWeights& w, const std::vector<Places>& places)
    : ranks_(ranks) {
  size_t router = 0;
  const auto add = [&](const BlockWeights& b) {
    if (!b.is_moe) return;
    Places in_order(b.moe.gate.size());
    std::iota(in_order.begin(), in_order.end(), 0);
    check(places.empty() || router < places.size(), "ExpertRanks: expected places for every router");
    place(b.moe, places.empty() ? in_order : places[router], router);
    ++router;
  };
  for (const BlockWeights& b : w.layers) add(b);
  for (const MtpWeights& m : w.mtp) add(m.block);
}

void ExpertRanks::place(const MoeWeights& w, const Places& places, size_t router) {
  const size_t P = static_cast<size_t>(ranks_.size()), E = w.gate.size();
  if (places.size() % P != 0)
    fail("experts: expected places that {} ranks share evenly, found {} of router {}", P, places.size(), router);
  std::vector<std::vector<int>>& holders = holders_[&w];
  holders.resize(E);
  for (size_t i = 0; i < places.size(); ++i) {
    if (places[i] < 0 || static_cast<size_t>(places[i]) >= E)
      fail("experts: expected 0 to {} at each place, found {} of router {}", E - 1, places[i], router);
    holders[static_cast<size_t>(places[i])].push_back(static_cast<int>(i / (places.size() / P)));
  }
  for (size_t e = 0; e < E; ++e)
    if (holders[e].empty()) fail("experts: expected a place for each, found none of expert {}, router {}", e, router);
}

RowShares ExpertRanks::shares(const MoeWeights& w, std::span<const int32_t> offsets_E1) const {
  const std::vector<std::vector<int>>& holders = holders_.at(&w);
  RowShares shares{std::vector<std::vector<RowRange>>(static_cast<size_t>(ranks_.size())), {0}};
  for (size_t e = 0; e < holders.size(); ++e) {
    const int64_t begin = offsets_E1[e], rows = offsets_E1[e + 1] - begin;
    const int64_t copies = static_cast<int64_t>(holders[e].size());
    int32_t own = shares.offsets_E1.back();
    for (int64_t i = 0; i < copies; ++i) {
      const int64_t first = rows * i / copies, count = rows * (i + 1) / copies - first;
      const int holder = holders[e][static_cast<size_t>(i)];
      if (count > 0) shares.of_rank[static_cast<size_t>(holder)].push_back({begin + first, count});
      if (holder == ranks_.rank()) own += static_cast<int32_t>(count);
    }
    shares.offsets_E1.push_back(own);
  }
  return shares;
}

Tensor ExpertRanks::own_rows(const RowShares& shares, const Tensor& x_RD) {
  const std::vector<RowRange>& own = shares.of_rank[static_cast<size_t>(ranks_.rank())];
  const int64_t D = x_RD.cols(), L = count_rows(own);
  own_.resize(static_cast<size_t>(L * D));
  each_range(own, [&](const RowRange& r, int64_t at) {
    copy_rows(own_.data() + at * D, x_RD.f32() + r.begin * D, r.count * D);
  });
  return Tensor(own_.data(), {L, D});
}

void ExpertRanks::exchange(const RowShares& shares, const Tensor& y_RD, const Tensor& y_LD) {
  const size_t P = shares.of_rank.size();
  const int64_t D = y_RD.cols(), bytes = D * static_cast<int64_t>(sizeof(float));
  arrived_.resize(static_cast<size_t>(y_RD.size()));
  ByteRanges in{reinterpret_cast<std::byte*>(arrived_.data()), {}, {}};
  ByteRanges out{bytes_of(y_LD).data(), std::vector<int64_t>(P), std::vector<int64_t>(P, y_LD.rows() * bytes)};
  int64_t rows = 0;
  for (const std::vector<RowRange>& ranges : shares.of_rank) {
    in.offset.push_back(rows * bytes);
    in.count.push_back(count_rows(ranges) * bytes);
    rows += count_rows(ranges);
  }
  ranks_.all_to_all(in, out).wait();
  for (size_t rank = 0; rank < P; ++rank) {
    const float* from = arrived_.data() + in.offset[rank] / static_cast<int64_t>(sizeof(float));
    each_range(shares.of_rank[rank],
               [&](const RowRange& r, int64_t at) { copy_rows(y_RD.f32() + r.begin * D, from + at * D, r.count * D); });
  }
}

}  // namespace sluice
