// Routed experts of an engine that lie on several ranks. All ranks run the same passes over the same rows; each does
// the products of its experts, and gets what came of the other rows from their ranks. As rows do not depend on each
// other, every rank has the bits that it would have alone.
// E experts, R rows of a pass in the order of experts, L of them on this rank; D columns. On the CPU alone.
#pragma once
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/project.h"
#include "parallel/communicator.h"

namespace sluice {

/// Which rows of a layer each rank computes.
struct RowShares {
  std::vector<std::vector<RowRange>> of_rank;  // ascending; of an expert, as many on each of its copies
  std::vector<int32_t> offsets_E1;             // where this rank's rows of each expert begin among its own
};

class ExpertRanks {
 public:
  /// The expert at each place of a layer, as in ExpertPlacement: rank r has the r-th part of the places.
  using Places = std::vector<int32_t>;

  /// `ranks` and `w` must outlive it. A list of places for every router of `w`, MTP modules last, or none at all: E / P
  /// neighbouring experts on each rank. Throws Error where ranks do not divide the places or an expert has none.
  ExpertRanks(Communicator& ranks, const ModelWeights& w, const std::vector<Places>& places);

  /// From where the rows of each expert begin (E + 1).
  RowShares shares(const MoeWeights& w, std::span<const int32_t> offsets_E1) const;
  /// This rank's rows; valid until the next call.
  Tensor own_rows(const RowShares& shares, const Tensor& x_RD);
  /// y_RD from what every rank has made of its own rows, here y_LD.
  void exchange(const RowShares& shares, const Tensor& y_RD, const Tensor& y_LD);

 private:
  void place(const MoeWeights& w, const Places& places, size_t router);

  Communicator& ranks_;
  std::unordered_map<const MoeWeights*, std::vector<std::vector<int>>> holders_;  // ranks by layer and expert
  std::vector<float> own_, arrived_;
};

}  // namespace sluice
