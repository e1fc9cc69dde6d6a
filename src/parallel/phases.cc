#include "parallel/phases.h"

#include <algorithm>

namespace sluice {

std::vector<StagePass> passes_of(const Action& a) {
  switch (a.step) {
    case Step::FB:
      return {{Step::B, a.other_chunk, a.other_micro}, {Step::F, a.chunk, a.micro}};
    case Step::W:
      return {};
    default:
      return {{a.step, a.chunk, a.micro}};
  }
}

std::vector<int> turns(int first_phases, int second_phases) {
  std::vector<int> turns;
  for (int phase = 0; phase < std::max(first_phases, second_phases); ++phase) {
    if (phase < first_phases) turns.push_back(0);
    if (phase < second_phases) turns.push_back(1);
  }
  return turns;
}

}  // namespace sluice
