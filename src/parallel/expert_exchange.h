// Experts that lie on several ranks (specification 6.1, 6.6): rows travel to the rank of their expert and back. Each of
// P ranks holds E / P neighbouring experts of every layer.
// E experts, R rows of this rank's tokens in the order of all experts, L rows that reach this rank's experts, in their
// order and, of one expert, in the order of the ranks they come from; D columns.
#pragma once
#include <vector>

#include "base/arena.h"
#include "base/stream.h"
#include "parallel/communicator.h"

namespace sluice {

/// Where the rows of one layer and micro-batch go, kept for the backward pass, which sends gradients the same ways.
struct ExchangePlan {
  std::vector<int64_t> sent, received;  // rows to and from each rank
  Tensor offsets;                       // i32 (E / P + 1): where the rows of each expert here begin
  Tensor arrival_L, place_L;            // i32: which arrived row is the l-th, and the inverse

  int64_t rows() const { return place_L.size(); }
};

class ExpertExchange {
 public:
  /// `ranks` must outlive it. `experts` is a multiple of their number.
  ExpertExchange(Communicator& ranks, int64_t experts);

  int64_t first_expert() const { return ranks_.rank() * num_experts(); }
  /// On each rank.
  int64_t num_experts() const { return experts_ / ranks_.size(); }

  /// From where this rank's R rows begin for each expert (E + 1, i32); asks the others. On a dry stream the most rows
  /// that can come, R from each rank, if the others have no more.
  ExchangePlan plan(Stream& s, Arena& a, const Tensor& offsets_E1, int64_t R);
  /// (L, D) in memory of `a` from x_RD, which has no gaps between rows.
  Tensor dispatch(Stream& s, Arena& a, const ExchangePlan& plan, const Tensor& x_RD);
  /// y_RD = what came of its rows, from y_LD. The inverse of dispatch(); takes and leaves memory of `a`.
  void combine(Stream& s, Arena& a, const ExchangePlan& plan, Tensor y_RD, const Tensor& y_LD);

 private:
  /// Fills in what is sent and received; the expert here of each row in the order of arrival.
  std::vector<int32_t> exchange_counts(Stream& s, ExchangePlan& plan, const Tensor& offsets_E1);

  Communicator& ranks_;
  int64_t experts_;
};

}  // namespace sluice
