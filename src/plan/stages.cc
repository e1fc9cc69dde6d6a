#include "plan/stages.h"

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace sluice {
namespace {

/// What a cut must keep to: a rank with everything, a stage without the tail, which cannot be divided.
struct Bounds {
  double rank, stage;
};

/// Tries to cut within bounds. Ranks are filled from both ends of the model inwards: rank g
/// takes some layers from the front and, where it holds two stages, some from the back.
class Cut {
 public:
  Cut(const std::vector<double>& costs, double tail, const Pipeline& pipeline)
      : layers_(static_cast<int>(costs.size())),
        tail_(tail),
        stages_(pipeline.stages()),
        is_folded_(pipeline.chunks() == 2) {
    before_.push_back(0);
    for (const double c : costs) before_.push_back(before_.back() + c);
    groups_ = is_folded_ ? stages_ / 2 : stages_;
  }

  std::optional<std::vector<int>> within(const Bounds& bounds) const {
    // back[g][i]: the most layers that g ranks can take from the back while they take i from the front; -1: none.
    std::vector<std::vector<int>> back(static_cast<size_t>(groups_) + 1, std::vector<int>(before_.size(), -1));
    back[0][0] = 0;
    for (int g = 0; g < groups_; ++g)
      for (int i = 0; i <= layers_; ++i)
        if (const int j = at(back, g, i); j >= 0)
          for (int take = 0; take <= layers_ - i - j; ++take) {
            const int more = from_back(g, i, j, take, bounds);
            if (more < 0) break;  // nor do more fit
            int& best = back[static_cast<size_t>(g) + 1][static_cast<size_t>(i + take)];
            best = std::max(best, j + more);
          }
    for (int i = layers_; i >= 0; --i)  // the tail's end gets less
      if (at(back, groups_, i) >= layers_ - i) return trace(back, i, bounds);
    return {};
  }

  double total() const { return before_.back() + tail_; }

 private:
  static int at(const std::vector<std::vector<int>>& table, int g, int i) {
    return table[static_cast<size_t>(g)][static_cast<size_t>(i)];
  }
  double cost(int first, int last) const {
    return before_[static_cast<size_t>(last)] - before_[static_cast<size_t>(first)];
  }

  /// The most layers that rank g can take from the back beside `take` of the front; -1 where it has too much already.
  int from_back(int g, int i, int j, int take, const Bounds& bounds) const {
    const double front = cost(i, i + take);
    const double tail = g == (is_folded_ ? 0 : groups_ - 1) ? tail_ : 0;
    const auto fits = [&](int n) {
      const double end = cost(layers_ - j - n, layers_ - j);
      return end <= bounds.stage && front + end + tail <= bounds.rank;
    };
    if (front > bounds.stage || !fits(0)) return -1;
    const int left = is_folded_ ? layers_ - j - i - take : 0;
    int more = 0;
    while (more < left && fits(more + 1)) ++more;
    return more;
  }

  std::vector<int> trace(const std::vector<std::vector<int>>& back, int i, const Bounds& bounds) const {
    std::vector<int> sizes(static_cast<size_t>(stages_));
    for (int g = groups_; g-- > 0;) {
      const int j = at(back, g + 1, i);
      for (int take = 0; take <= i; ++take) {
        const int j_before = at(back, g, i - take);
        if (j_before < 0 || j_before + from_back(g, i - take, j_before, take, bounds) != j) continue;
        sizes[static_cast<size_t>(g)] = take;
        if (is_folded_) sizes[static_cast<size_t>(stages_ - 1 - g)] = j - j_before;
        i -= take;
        break;
      }
    }
    return sizes;
  }

  int layers_, groups_;
  double tail_;
  int stages_;
  bool is_folded_;
  std::vector<double> before_;  // cost of the layers before each
};

}  // namespace

std::vector<int> split_layers(const std::vector<double>& costs, double tail, const Pipeline& pipeline) {
  check(costs.size() <= 512, "split_layers: expected at most 512 layers");
  const Cut cut(costs, tail, pipeline);
  Bounds bounds{cut.total(), cut.total()};
  // The busiest rank decides on the speed; then stages of one size overlap best and keep least.
  for (double Bounds::*bound : {&Bounds::rank, &Bounds::stage}) {
    double low = 0;
    for (int i = 0; i < 40; ++i) {
      Bounds tried = bounds;
      tried.*bound = (low + bounds.*bound) / 2;
      if (cut.within(tried)) {
        bounds = tried;
      } else {
        low = tried.*bound;
      }
    }
  }
  const std::optional<std::vector<int>> best = cut.within(bounds);
  check(best.has_value(), "split_layers: expected a cut within bounds that it was found for");
  return *best;
}

}  // namespace sluice
