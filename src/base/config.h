// What this build contains. The only place where the preprocessor decides.
#pragma once

namespace sluice {

/// Whether the CUDA backend was built (CMake's SLUICE_CUDA). Where it was not, calls of `cuda::` functions stand in
/// discarded branches and need no definition.
inline constexpr bool kHasCuda = SLUICE_HAS_CUDA;

/// Whether MPI was built in (CMake's SLUICE_MPI), and with it runs of several ranks.
inline constexpr bool kHasMpi = SLUICE_HAS_MPI;

}  // namespace sluice
