#include <algorithm>

#include "parallel/schedule_lists.h"

namespace sluice {

std::vector<Action> actions_1f1b(int rank, int ranks, int micros) {
  const int warm_up = std::min(micros, ranks - 1 - rank);
  std::vector<Action> list;
  for (int m = 0; m < warm_up; ++m) list.push_back({Step::F, 0, m});
  for (int m = 0; m < micros; ++m) {
    if (m + warm_up < micros) list.push_back({Step::F, 0, m + warm_up});
    list.push_back({Step::B, 0, m});
  }
  return list;
}

std::vector<Action> actions_zb1p(int rank, int ranks, int micros) {
  std::vector<Action> list;
  int put_off = 0;  // the first micro-batch whose weight gradient is still to come
  for (Action a : actions_1f1b(rank, ranks, micros)) {
    if (a.step == Step::B) a.step = Step::Bi;
    list.push_back(a);
    if (a.step == Step::Bi && a.micro >= rank) list.push_back({Step::W, 0, put_off++});
  }
  while (put_off < micros) list.push_back({Step::W, 0, put_off++});
  return list;
}

}  // namespace sluice
