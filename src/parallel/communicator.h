// Messages between the ranks of a run. Every call begins a transfer and returns; the memory that it was given must stay
// as it is until the transfer is done. All ranks of a communicator make the same collective calls in the same order.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace sluice {

/// A transfer under way, and whoever asks for its end.
class Transfer {
 public:
  /// What a communicator knows of it.
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() = 0;
    virtual bool is_done() const = 0;
  };
  /// One that is done.
  Transfer() = default;
  explicit Transfer(std::shared_ptr<State> state) : state_(std::move(state)) {}
  /// Returns when the memory may be read and written again. What fails ends the program.
  void wait() const {
    if (state_) state_->wait();
  }
  bool is_done() const { return !state_ || state_->is_done(); }

 private:
  std::shared_ptr<State> state_;
};

/// A side of all_to_all: where the bytes of each rank begin, and how many they are.
struct ByteRanges {
  std::byte* data;
  std::vector<int64_t> offset, count;  // one of each rank
};

/// Bytes that a rank has given to others. Of all ranks together, what has to travel whatever the algorithm: a reduce is
/// counted by every rank but the root, a broadcast by every rank that gets it, an all-reduce as both.
struct Traffic {
  int64_t sent = 0, exchanged = 0, reduced = 0, broadcast = 0, all_reduced = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// data = the sum over all ranks. f32, f64 and i64 tensors without gaps between rows.
  virtual Transfer all_reduce(const Tensor& data) = 0;
  /// On `root`: data = the sum over all ranks; on others `data` is only read. As all_reduce.
  virtual Transfer reduce(const Tensor& data, int root) = 0;
  /// data = that of `root`.
  virtual Transfer broadcast(std::span<std::byte> data, int root) = 0;
  /// Rank r gets the r-th range of `out` as the range of `in` that is this rank's there.
  virtual Transfer all_to_all(const ByteRanges& in, const ByteRanges& out) = 0;
  /// A message finds the receive of the same tag, of several the first; tags are from 0 to 2^24.
  virtual Transfer send(std::span<const std::byte> data, int to, int tag = 0) = 0;
  virtual Transfer receive(std::span<std::byte> data, int from, int tag = 0) = 0;

  /// A communicator of the ranks that name the same `color`, in the order of their ranks here. Waits for all ranks.
  virtual std::unique_ptr<Communicator> split(int color) = 0;

  /// Of this rank through this communicator so far.
  virtual Traffic traffic() const { return {}; }
  /// Says what the program is at, for other ranks to tell when this one fails: "saving". The text must live for ever.
  virtual void note_phase(const char* /*phase*/) {}
};

/// The bytes of a tensor without gaps between rows.
std::span<std::byte> bytes_of(const Tensor& t);

/// The first rank's value; waits for it.
int64_t agree(Communicator& ranks, int64_t value);

/// One rank alone: every transfer is done when it returns.
std::unique_ptr<Communicator> self_communicator();

/// All ranks that mpirun or srun has started. To be called once, on the main thread, which must also destroy it, after
/// all that came from it; that waits for all ranks. A rank that dies, hangs or fails is named on every rank's stderr
/// and ends the run: with exit code 71 where it cannot say so itself. `is_told_to_stop`, asked now and then on another
/// thread: whether this rank got a signal to stop, which mpirun sends when another has died. Throws Error where MPI was
/// not built in.
std::unique_ptr<Communicator> mpi_communicator(std::function<bool()> is_told_to_stop = {});

/// After an error of this rank, from any thread: tells the others why, which say so, and ends them all. Returns where
/// there are none. Memory that transfers may still write to must stay.
void abort_all_ranks(int exit_code, const std::string& why);

}  // namespace sluice
