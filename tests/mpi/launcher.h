// How tests start several ranks on one machine.
#pragma once
#include <cstdlib>

namespace sluice {

/// Open MPI's permission to run as root and to have more ranks than cores, for what this process starts.
inline void allow_many_ranks() {
  for (const char* name :
       {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"})
    setenv(name, "1", 1);
  setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
}

}  // namespace sluice
