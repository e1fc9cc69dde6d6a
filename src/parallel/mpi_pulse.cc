#include "parallel/mpi_pulse.h"

#include <fmt/format.h>

namespace sluice::mpi {
namespace {

constexpr std::chrono::milliseconds kInterval{1000}, kSilence{6000};
constexpr std::chrono::milliseconds kLook{2};      // between looks for messages
constexpr std::chrono::milliseconds kAnswer{500};  // mpirun kills a second after it has told to stop
constexpr std::chrono::milliseconds kSaying{500};  // for the others to print a line
constexpr int kOtherRank = 71;                     // exit code
constexpr size_t kMostText = 1000;

}  // namespace

Pulse::Pulse(std::function<bool()> is_told_to_stop) : is_told_to_stop_(std::move(is_told_to_stop)) {
  MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  known_.resize(static_cast<size_t>(size_));
  has_answered_.resize(static_cast<size_t>(size_));
}

void Pulse::beat(const Activity& activity) {
  const Clock::time_point now = Clock::now();
  if (now - last_call_ > kInterval) last_heard_ = now;  // this rank was stopped itself, perhaps all were
  last_call_ = now;
  if (now - last_look_ < kLook) return;
  last_look_ = now;
  drop_what_has_left();
  take_messages(now);
  // One that the next rank does not take, because it is stopped, is not followed by more.
  if (now - last_sent_ > kInterval && leaving_.empty()) {
    const std::string phase = activity.phase;
    send((rank_ + 1) % size_, kBeat, activity.transfer ? phase + ": " + activity.transfer : phase);
    last_sent_ = now;
  }
  if (!roll_called_ && is_told_to_stop_ && is_told_to_stop_()) call_roll(now);
  if (roll_called_ && !is_roll_over_ && now - *roll_called_ > kAnswer) name_who_is_absent();
  if (!ending_ && now - last_heard_ > kSilence) {
    const std::string why = fmt::format("rank {} has been silent for {} s; it was at: {}", previous(),
                                        kSilence.count() / 1000, previous_is_at_);
    say(why);
    end_run(why, kOtherRank);
  }
  if (ending_ && now > ending_->when) MPI_Abort(comm_, ending_->exit_code);
}

void Pulse::end_run(const std::string& why, int exit_code) {
  send_to_others(kVerdict, why);
  ending_ = Ending{exit_code, Clock::now() + kSaying};
}

bool Pulse::is_everybody_done() {
  if (!leave_) MPI_Ibarrier(comm_, &leave_.emplace());
  int all = 0;
  MPI_Test(&*leave_, &all, MPI_STATUS_IGNORE);
  return all;
}

void Pulse::send(int to, Tag tag, const std::string& text) {
  Leaving& message = leaving_.emplace_back(Leaving{MPI_REQUEST_NULL, text.substr(0, kMostText)});
  MPI_Isend(message.text.data(), static_cast<int>(message.text.size()), MPI_CHAR, to, tag, comm_, &message.request);
}

void Pulse::send_to_others(Tag tag, const std::string& text) {
  for (int r = 0; r < size_; ++r)
    if (r != rank_) send(r, tag, text);
}

void Pulse::drop_what_has_left() {
  std::erase_if(leaving_, [](Leaving& message) {
    int has_left = 0;
    MPI_Test(&message.request, &has_left, MPI_STATUS_IGNORE);
    return has_left != 0;
  });
}

void Pulse::take_messages(Clock::time_point now) {
  while (true) {
    int is_there = 0, count = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &is_there, &status);
    if (!is_there) return;
    MPI_Get_count(&status, MPI_CHAR, &count);
    std::string text(static_cast<size_t>(count), '\0');
    MPI_Recv(text.data(), count, MPI_CHAR, status.MPI_SOURCE, status.MPI_TAG, comm_, MPI_STATUS_IGNORE);
    take(status.MPI_SOURCE, status.MPI_TAG, text, now);
  }
}

void Pulse::take(int from, int tag, const std::string& text, Clock::time_point now) {
  if (from == previous()) last_heard_ = now;
  if (tag == kBeat) previous_is_at_ = text;
  if (tag == kRoll) {
    if (!roll_called_) call_roll(now);
    has_answered_[static_cast<size_t>(from)] = true;
    known_[static_cast<size_t>((from + size_ - 1) % size_)] = text;
  }
  if (tag == kVerdict && !ending_) {
    say(text);
    ending_ = Ending{kOtherRank, now + 2 * kSaying};  // the one that failed ends the run first, with its own exit code
  }
}

void Pulse::call_roll(Clock::time_point now) {
  roll_called_ = now;
  has_answered_[static_cast<size_t>(rank_)] = true;
  known_[static_cast<size_t>(previous())] = previous_is_at_;
  send_to_others(kRoll, previous_is_at_);
}

void Pulse::name_who_is_absent() {
  is_roll_over_ = true;
  for (size_t r = 0; r < has_answered_.size() && !ending_; ++r)
    if (!has_answered_[r])
      say(fmt::format("rank {} does not answer; it was at: {}", r, known_[r].value_or("a place that nobody knows")));
}

void Pulse::say(const std::string& verdict) const {
  fmt::print(stderr, "sluice: rank {}: the run ends: {}\n", rank_, verdict);
}

}  // namespace sluice::mpi
