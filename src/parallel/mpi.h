// Ranks that mpirun or srun has started. Without MPI in the build nothing of this is defined (base/config.h).
#pragma once
#include "parallel/communicator.h"

namespace sluice::mpi {

/// Begins MPI. See mpi_communicator().
std::unique_ptr<Communicator> world(std::function<bool()> is_told_to_stop);

/// Ends all ranks of a world that has begun. See abort_all_ranks().
void abort(int exit_code, const std::string& why);

}  // namespace sluice::mpi
