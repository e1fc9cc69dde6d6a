# Runs of several ranks: built where MPI is found (SLUICE_MPI=AUTO), demanded (ON) or left out (OFF). Sets SLUICE_HAS_MPI
# and SLUICE_MPI_LIBRARY, which parallel/mpi.cc is linked with.
set(SLUICE_MPI AUTO CACHE STRING "build runs of several ranks: ON, OFF, or AUTO where MPI is found")
set(SLUICE_HAS_MPI OFF)
if(SLUICE_MPI STREQUAL "OFF")
  return()
endif()

set(MPI_CXX_SKIP_MPICXX ON)  # the C++ bindings, which nobody uses
find_package(MPI QUIET COMPONENTS CXX)
if(MPI_CXX_FOUND)
  set(SLUICE_HAS_MPI ON)
  set(SLUICE_MPI_LIBRARY MPI::MPI_CXX)
elseif(SLUICE_MPI STREQUAL "ON")
  message(FATAL_ERROR "SLUICE_MPI=ON: expected MPI (apt install libopenmpi-dev), found none")
endif()
