// Checkpoints of a run on several ranks, written while it goes on.
#pragma once
#include <memory>
#include <thread>

#include "train/run_copy.h"

namespace sluice {

class CheckpointWriter {
 public:
  /// Rank r of `world`, which must outlive it, writes the parameters whose `owner` is r (train/run_folder.h). All ranks
  /// make the same calls.
  CheckpointWriter(Communicator& world, const fs::path& out, std::vector<int> owner);
  ~CheckpointWriter() { wait(); }

  /// Begins to write, when the one before is on the disk. What cannot be written ends the run, on all ranks.
  void write(std::unique_ptr<RunSnapshot> run, RunFiles files);
  /// Returns when everything is on the disk, on all ranks.
  void wait();

 private:
  Communicator& world_;
  std::unique_ptr<Communicator> ranks_;  // its own, because the program makes calls meanwhile
  fs::path out_;
  std::vector<int> owner_;
  std::thread thread_;
};

}  // namespace sluice
