// Commands that run on several ranks.
#pragma once
#include "parallel/communicator.h"

namespace sluice {

/// The ranks that mpirun or srun has started, or this one alone. Throws Error where there are several and this build
/// has no MPI.
std::unique_ptr<Communicator> open_ranks();

}  // namespace sluice
