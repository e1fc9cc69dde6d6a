// Pipeline schedules as data: what each rank computes, in which order, and where the stages of the model lie.
// One executor and one simulator run all of them. P ranks, M micro-batches of a step.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// one_f_one_b: PipeDream-flush. zb1p: the same order with weight gradients put off (arXiv:2401.10241, "ZB-H1").
/// dualpipe: two directions, two copies of every stage (arXiv:2412.19437). dualpipev: its half, folded to a V.
enum class Schedule { one_f_one_b, zb1p, dualpipe, dualpipev };

/// All of them, in this order.
std::vector<Schedule> all_schedules();

/// "1f1b", "zb1p", "dualpipe" or "dualpipev".
std::string_view schedule_name(Schedule schedule);

/// The inverse. Throws Error "schedule: expected ..., found ...".
Schedule parse_schedule(const std::string& text);

/// F forward. B backward, input and weight gradients. Bi input gradients only. W the weight gradients that a Bi left;
/// a rank runs them in the order of its Bi. FB a forward overlapped with the B of another micro-batch.
enum class Step { F, B, Bi, W, FB };

/// A chunk is one of the one or two stages that a rank holds. `micro` counts the micro-batches that flow through that
/// chunk from 0: with dualpipe each direction has M/2 of its own. Of FB, chunk and micro are those of the F,
/// other_chunk and other_micro those of the B; otherwise the latter are -1.
struct Action {
  Step step;
  int chunk, micro;
  int other_chunk = -1, other_micro = -1;
  bool operator==(const Action&) const = default;
};

/// "F3a", "Bi0b", "F3a+B1b": step, micro-batch and chunk as a letter.
std::string action_name(const Action& action);

/// Where a stage is held.
struct Place {
  int rank, chunk;
  bool operator==(const Place&) const = default;
};

/// A schedule with its sizes, and where everything lies. A path is the way of a micro-batch through all stages:
/// dualpipe has two (chunk 0 from rank 0 up, chunk 1 from rank P-1 down), the others one.
class Pipeline {
 public:
  /// Throws Error, one line, for less than one rank, an odd P or M with dualpipe, too few micro-batches (dualpipe and
  /// dualpipev need 2 P), and more than 4096 ranks or 2^20 micro-batches.
  Pipeline(Schedule schedule, int ranks, int micros);

  Schedule schedule() const { return schedule_; }
  int ranks() const { return ranks_; }
  int micros() const { return micros_; }
  /// Chunks that each rank holds: 1 or 2.
  int chunks() const;
  /// Stages that the layers of the model are cut into.
  int stages() const;
  /// Micro-batches of a step that flow through one chunk.
  int chunk_micros() const;
  int stage(Place place) const;
  /// Who holds a stage: one place, two with dualpipe, whose gradients must be summed and whose weights kept equal.
  std::vector<Place> holders(int stage) const;
  /// Where the output of `place` goes, and where its input comes from: none at the last and the first stage. The same
  /// rank where dualpipev turns.
  std::optional<Place> next(Place place) const;
  std::optional<Place> previous(Place place) const;
  bool is_first(Place place) const { return stage(place) == 0; }
  bool is_last(Place place) const { return stage(place) == stages() - 1; }

  /// What `rank` computes in a step, in order.
  std::vector<Action> actions(int rank) const;

 private:
  Schedule schedule_;
  int ranks_, micros_;
};

/// The lists of all ranks.
std::vector<std::vector<Action>> all_actions(const Pipeline& pipeline);

}  // namespace sluice
