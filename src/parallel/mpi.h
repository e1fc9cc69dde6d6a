// Ranks that mpirun or srun has started. Without MPI in the build nothing of this is defined (base/config.h).
#pragma once
#include "parallel/communicator.h"

namespace sluice::mpi {

/// Begins MPI. See mpi_communicator().
std::unique_ptr<Communicator> world();

/// Ends all ranks of a world that has begun.
void abort(int exit_code);

}  // namespace sluice::mpi
