#include "cli/ranks.h"

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <thread>

#include "base/error.h"
#include "cli/stop_signals.h"

namespace sluice {
namespace {

/// What the launcher put into the environment, under the first of the names that is there. MPI itself is not asked: it
/// would look for other processes where there are none.
int from_launcher(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return otherwise;
}

bool has_several_ranks() { return from_launcher({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}, 1) > 1; }

}  // namespace

std::unique_ptr<Communicator> open_ranks() {
  return has_several_ranks() ? mpi_communicator(stop_requested) : self_communicator();
}

std::string rank_prefix() {
  if (!has_several_ranks()) return "";
  return fmt::format("rank {}: ", from_launcher({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"}, 0));
}

int64_t cores_of_a_rank() {
  const int ranks = from_launcher({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"}, 1);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / std::max(ranks, 1));
}

}  // namespace sluice
