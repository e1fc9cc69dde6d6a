// How ranks notice that one of them has failed, and say which, on every rank.
// - Every rank tells the next one, now and then, that it lives and what it is at. One that is silent for too long,
//   stopped or with its machine gone, is named by the next one to all others.
// - A rank that fails itself tells all others why.
// - mpirun asks all ranks to stop when one was killed, and kills them a second later. Whoever is told to stop calls the
//   roll: those that do not answer are named. After Ctrl-C all answer.
#pragma once
#include <mpi.h>

#include <chrono>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <vector>

namespace sluice::mpi {

/// What a rank is at: a phase of the program and, where one is under way, a transfer. Both live for ever.
struct Activity {
  const char* phase;
  const char* transfer;  // or null
};

/// All calls come from the thread that makes the calls of MPI.
class Pulse {
 public:
  /// `is_told_to_stop` as of mpi_communicator().
  explicit Pulse(std::function<bool()> is_told_to_stop);

  /// To be called often. Ends the run when it must.
  void beat(const Activity& activity);
  /// This rank has failed. Others are told; after a moment in which they say so all are ended by beat().
  void end_run(const std::string& why, int exit_code);
  /// Every rank calls it again and again: true when all do.
  bool is_everybody_done();

 private:
  using Clock = std::chrono::steady_clock;
  struct Leaving {
    MPI_Request request;
    std::string text;
  };
  struct Ending {
    int exit_code;
    Clock::time_point when;
  };
  enum Tag : int { kBeat, kRoll, kVerdict };

  int previous() const { return (rank_ + size_ - 1) % size_; }
  void send(int to, Tag tag, const std::string& text);
  void send_to_others(Tag tag, const std::string& text);
  void drop_what_has_left();
  void take_messages(Clock::time_point now);
  void take(int from, int tag, const std::string& text, Clock::time_point now);
  void call_roll(Clock::time_point now);
  void name_who_is_absent();
  void say(const std::string& verdict) const;

  std::function<bool()> is_told_to_stop_;
  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  std::list<Leaving> leaving_;  // addresses stay
  std::string previous_is_at_ = "its start";
  Clock::time_point last_heard_ = Clock::now(), last_sent_{}, last_call_ = Clock::now(), last_look_{};
  // Of the roll: what is known of each rank that the one after it was told, once that one has answered.
  std::optional<Clock::time_point> roll_called_;
  std::vector<std::optional<std::string>> known_;
  std::vector<bool> has_answered_;
  bool is_roll_over_ = false;
  std::optional<Ending> ending_;
  std::optional<MPI_Request> leave_;
};

}  // namespace sluice::mpi
