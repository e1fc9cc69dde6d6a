#include "parallel/schedule.h"

#include <algorithm>

#include "base/error.h"
#include "parallel/schedule_lists.h"

namespace sluice {
namespace {

constexpr int kMaxRanks = 4096, kMaxMicros = 1 << 20;

/// DualPipe's list of `rank`: beyond the middle, phase 0 is direction 1.
std::vector<Action> actions_dualpipe(int rank, int ranks, int micros) {
  const int half = ranks / 2;
  std::vector<Action> list = actions_bidirectional(std::min(rank, ranks - 1 - rank), half, micros);
  if (rank < half) return list;
  for (Action& a : list) {
    a.chunk = 1 - a.chunk;
    if (a.step == Step::FB) a.other_chunk = 1 - a.other_chunk;
  }
  return list;
}

std::string part_name(const char* step, int micro, int chunk) {
  return fmt::format("{}{}{}", step, micro, static_cast<char>('a' + chunk));
}

}  // namespace

std::vector<Schedule> all_schedules() {
  return {Schedule::one_f_one_b, Schedule::zb1p, Schedule::dualpipe, Schedule::dualpipev};
}

std::string_view schedule_name(Schedule schedule) {
  switch (schedule) {
    case Schedule::one_f_one_b:
      return "1f1b";
    case Schedule::zb1p:
      return "zb1p";
    case Schedule::dualpipe:
      return "dualpipe";
    case Schedule::dualpipev:
      return "dualpipev";
  }
  return "";
}

Schedule parse_schedule(const std::string& text) {
  for (const Schedule s : all_schedules())
    if (schedule_name(s) == text) return s;
  fail("schedule: expected 1f1b, zb1p, dualpipe or dualpipev, found {}", text);
}

std::string action_name(const Action& a) {
  if (a.step == Step::FB) return part_name("F", a.micro, a.chunk) + "+" + part_name("B", a.other_micro, a.other_chunk);
  const char* step = a.step == Step::F ? "F" : a.step == Step::B ? "B" : a.step == Step::Bi ? "Bi" : "W";
  return part_name(step, a.micro, a.chunk);
}

Pipeline::Pipeline(Schedule schedule, int ranks, int micros) : schedule_(schedule), ranks_(ranks), micros_(micros) {
  const std::string_view name = schedule_name(schedule);
  if (ranks < 1 || ranks > kMaxRanks) fail("{}: expected 1 to {} ranks, found {}", name, kMaxRanks, ranks);
  if (micros < 1 || micros > kMaxMicros) fail("{}: expected 1 to {} micro-batches, found {}", name, kMaxMicros, micros);
  if (chunks() == 1) return;
  if (schedule == Schedule::dualpipe && ranks % 2 != 0)
    fail("{}: expected an even number of ranks, found {}", name, ranks);
  if (schedule == Schedule::dualpipe && micros % 2 != 0)
    fail("{}: expected an even number of micro-batches, found {}", name, micros);
  if (micros < 2 * ranks) fail("{}: {} ranks need at least {} micro-batches, found {}", name, ranks, 2 * ranks, micros);
}

int Pipeline::chunks() const { return schedule_ == Schedule::dualpipe || schedule_ == Schedule::dualpipev ? 2 : 1; }

int Pipeline::stages() const { return schedule_ == Schedule::dualpipev ? 2 * ranks_ : ranks_; }

int Pipeline::chunk_micros() const { return schedule_ == Schedule::dualpipe ? micros_ / 2 : micros_; }

int Pipeline::stage(Place place) const { return place.chunk == 0 ? place.rank : stages() - 1 - place.rank; }

std::vector<Place> Pipeline::holders(int stage) const {
  if (schedule_ == Schedule::dualpipe) return {{stage, 0}, {ranks_ - 1 - stage, 1}};
  if (stage < ranks_) return {{stage, 0}};
  return {{stages() - 1 - stage, 1}};
}

std::optional<Place> Pipeline::next(Place place) const {
  if (is_last(place)) return {};
  if (place.chunk == 1) return Place{place.rank - 1, 1};
  if (place.rank == ranks_ - 1) return Place{place.rank, 1};  // dualpipev turns
  return Place{place.rank + 1, 0};
}

std::optional<Place> Pipeline::previous(Place place) const {
  if (is_first(place)) return {};
  if (place.chunk == 0) return Place{place.rank - 1, 0};
  if (place.rank == ranks_ - 1) return Place{place.rank, 0};
  return Place{place.rank + 1, 1};
}

std::vector<Action> Pipeline::actions(int rank) const {
  check(rank >= 0 && rank < ranks_, "Pipeline::actions: expected a rank of the pipeline");
  switch (schedule_) {
    case Schedule::one_f_one_b:
      return actions_1f1b(rank, ranks_, micros_);
    case Schedule::zb1p:
      return actions_zb1p(rank, ranks_, micros_);
    case Schedule::dualpipe:
      return actions_dualpipe(rank, ranks_, micros_);
    case Schedule::dualpipev:
      return actions_bidirectional(rank, ranks_, 2 * micros_);
  }
  return {};
}

std::vector<std::vector<Action>> all_actions(const Pipeline& pipeline) {
  std::vector<std::vector<Action>> lists;
  for (int rank = 0; rank < pipeline.ranks(); ++rank) lists.push_back(pipeline.actions(rank));
  return lists;
}

}  // namespace sluice
