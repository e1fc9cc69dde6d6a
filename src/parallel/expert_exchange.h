// Experts that lie on several ranks (specification 6.1, 6.6): rows travel to the rank of their expert and back. Each of
// P ranks holds E / P neighbouring experts of every layer. Of each exchange begin and end are apart, so that something
// else may be computed in between.
// E experts, R rows of this rank's tokens in the order of all experts, L rows that reach this rank's experts, in their
// order and, of one expert, in the order of the ranks they come from; D columns.
#pragma once
#include <vector>

#include "base/arena.h"
#include "base/stream.h"
#include "parallel/communicator.h"

namespace sluice {

/// How rows travel.
struct ExchangeOptions {
  bool fp8_out = false;    // to experts as E4M3 codes with a float32 scale for every 128 columns; else as they are
  bool bf16_back = false;  // from experts rounded to bf16; else as they are
  double capacity = 2;     // rows that a rank takes at a time, as a multiple of what it gets if all get as many; >= 1
};

/// Rows that travel at a time: of those for each rank, neighbours.
struct ExchangeRound {
  std::vector<int64_t> first_sent, sent, received;  // to and from each rank; the first as a place in the R rows
  std::vector<int32_t> expert_L;                    // of this rank's experts, in the order of arrival
  Tensor offsets;                                   // i32 (E / P + 1): where the rows of each expert here begin
  Tensor arrival_L, place_L;                        // i32: which arrived row is the l-th, and the inverse

  int64_t rows() const { return place_L.size(); }
};

/// Where the rows of one layer and micro-batch go, kept for the backward pass, which sends gradients the same ways.
struct ExchangePlan {
  std::vector<int64_t> own_E, counts_PE;  // rows for each expert, of this rank and of every one
  Transfer arriving;                      // counts_PE
  std::vector<ExchangeRound> rounds;      // at least one; as many on all ranks

  bool is_in_rounds() const { return rounds.size() > 1; }
};

/// Rows under way, in memory of the arena they were begun with.
struct ExchangeRows {
  std::vector<Transfer> transfers;
  Tensor arriving;         // as sent
  Tensor scales, decoded;  // of codes

  void wait() const {
    for (const Transfer& t : transfers) t.wait();
  }
};

class ExpertExchange {
 public:
  /// `ranks` must outlive it. `experts` is a multiple of their number.
  ExpertExchange(Communicator& ranks, int64_t experts, const ExchangeOptions& options);

  int64_t first_expert() const { return ranks_.rank() * num_experts(); }
  /// On each rank.
  int64_t num_experts() const { return experts_ / ranks_.size(); }

  /// Tells the others how many rows go where, from where this rank's rows begin for each expert (E + 1, i32).
  void begin_plan(Stream& s, ExchangePlan& plan, const Tensor& offsets_E1);
  /// The rounds. Their tensors are made by prepare(), those of a single round here. On a dry stream one round as large
  /// as rounds may be, if all ranks have R rows.
  void end_plan(Stream& s, Arena& a, ExchangePlan& plan, int64_t R);
  void prepare(Stream& s, Arena& a, ExchangeRound& round);

  /// x_RD has no gaps between rows and stays as it is until the end; there the rows of the round are in x_LD.
  ExchangeRows begin_dispatch(Stream& s, Arena& a, const ExchangeRound& round, const Tensor& x_RD);
  void end_dispatch(Stream& s, const ExchangeRound& round, const ExchangeRows& rows, Tensor x_LD);
  /// The inverse: what came of the rows of the round, from y_LD to y_RD, which must not be touched until the end.
  ExchangeRows begin_combine(Stream& s, Arena& a, const ExchangeRound& round, Tensor y_RD, const Tensor& y_LD);
  void end_combine(Stream& s, const ExchangeRound& round, const ExchangeRows& rows, Tensor y_RD);

 private:
  int64_t capacity(int64_t rows) const;
  /// Of the rows for `to`, those that each round takes from `from`, as counts by its experts.
  std::vector<std::vector<int64_t>> parts(const ExchangePlan& plan, int from, int to, int64_t capacity) const;
  int64_t rows_for(const ExchangePlan& plan, int rank) const;

  Communicator& ranks_;
  int64_t experts_;
  ExchangeOptions options_;
};

}  // namespace sluice
