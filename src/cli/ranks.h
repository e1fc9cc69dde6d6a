// Commands that run on several ranks.
#pragma once
#include <string>

#include "parallel/communicator.h"

namespace sluice {

/// The ranks that mpirun or srun has started, or this one alone. Throws Error where there are several and this build
/// has no MPI.
std::unique_ptr<Communicator> open_ranks();

/// "rank N: " where there are several, else nothing.
std::string rank_prefix();

/// Processors for each rank of this machine.
int64_t cores_of_a_rank();

}  // namespace sluice
