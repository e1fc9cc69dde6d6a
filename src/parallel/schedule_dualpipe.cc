// The eight steps of DualPipe (arXiv:2412.19437, github.com/deepseek-ai/DualPipe) for one rank. Both it and its
// V-shaped half are this list: a rank at distance d from the outer end, folded at `half`.
#include <deque>

#include "parallel/schedule_lists.h"

namespace sluice {
namespace {

/// Appends actions and counts each phase's forwards and backwards.
class List {
 public:
  void forward(int phase) { actions_.push_back({Step::F, phase, forwards_[phase]++}); }
  void backward(int phase) { actions_.push_back({Step::B, phase, backwards_[phase]++}); }
  void backward_input(int phase) {
    actions_.push_back({Step::Bi, phase, backwards_[phase]++});
    put_off_.push_back(actions_.back());
  }
  void weight() {
    actions_.push_back({Step::W, put_off_.front().chunk, put_off_.front().micro});
    put_off_.pop_front();
  }
  void overlapped(int phase, int other) {
    actions_.push_back({Step::FB, phase, forwards_[phase]++, other, backwards_[other]++});
  }
  std::vector<Action> take() { return std::move(actions_); }

 private:
  std::vector<Action> actions_;
  std::deque<Action> put_off_;
  int forwards_[2] = {}, backwards_[2] = {};
};

/// Step 6: the last full backwards. Half way they become input gradients, whose weight gradients fill the wait after.
void append_turn(List& list, int distance) {
  const int turns = distance + 1;
  bool put_off = false;
  for (int i = 0; i < turns; ++i) {
    for (const int phase : {1, 0}) {
      put_off |= i == turns / 2 && phase == (distance % 2 == 1 ? 1 : 0);
      put_off ? list.backward_input(phase) : list.backward(phase);
    }
  }
}

}  // namespace

std::vector<Action> actions_bidirectional(int distance, int half, int micros) {
  const int to_middle = half - 1 - distance;
  List list;
  for (int i = 0; i < 2 * to_middle; ++i) list.forward(0);
  for (int i = 0; i <= distance; ++i) list.forward(0), list.forward(1);
  for (int i = 0; i < to_middle; ++i) list.backward_input(1), list.weight(), list.forward(1);
  for (int i = 0; i <= micros / 2 - 2 * half + distance; ++i) {
    if (i == 0 && to_middle == 0) {  // the middle's F(0) is what its own B(1) would wait for
      list.forward(0), list.backward(1);
    } else {
      list.overlapped(0, 1);
    }
    list.overlapped(1, 0);
  }
  for (int i = 0; i < to_middle; ++i) list.backward(1), list.overlapped(1, 0);
  append_turn(list, distance);
  for (int i = 0; i < to_middle; ++i) list.weight(), list.backward_input(0);
  for (int i = 0; i <= distance; ++i) list.weight();
  return list.take();
}

}  // namespace sluice
