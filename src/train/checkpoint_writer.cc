#include "train/checkpoint_writer.h"

namespace sluice {

CheckpointWriter::CheckpointWriter(Communicator& world, const fs::path& out, std::vector<int> owner)
    : world_(world), ranks_(world.split(0)), out_(out), owner_(std::move(owner)) {}

void CheckpointWriter::write(std::unique_ptr<RunSnapshot> run, RunFiles files) {
  wait();
  thread_ = std::thread([this, snapshot = std::move(run), texts = std::move(files)] {
    try {
      Stream s(1);
      save_run(s, out_, snapshot->saved(), texts, *ranks_, owner_);
    } catch (const std::exception& e) {
      // The program may be in a long step, and others wait for this part.
      fmt::print(stderr, "sluice: rank {}: {}\n", world_.rank(), e.what());
      abort_all_ranks(kUserErrorExit, e.what());
    }
  });
}

void CheckpointWriter::wait() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace sluice
