# The CUDA backend: built where nvcc of CUDA 13 is found (SLUICE_CUDA=AUTO), demanded (ON) or left out (OFF).
# Sets SLUICE_HAS_CUDA and, where it is on, the target sluice_cuda: flags and libraries of files in */cuda/.
set(SLUICE_CUDA AUTO CACHE STRING "build the CUDA backend: ON, OFF, or AUTO where CUDA 13 is found")
set(SLUICE_HAS_CUDA OFF)
if(SLUICE_CUDA STREQUAL "OFF")
  return()
endif()

find_package(CUDAToolkit QUIET)
if(NOT CUDAToolkit_FOUND OR CUDAToolkit_VERSION VERSION_LESS 13.0)
  if(SLUICE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SLUICE_CUDA=ON: expected nvcc of CUDA 13.0 or later on the PATH or in /usr/local/cuda, "
                        "found '${CUDAToolkit_VERSION}' (https://developer.nvidia.com/cuda-downloads)")
  endif()
  return()
endif()

# Machine code for Hopper alone; wgmma and setmaxnreg exist for 90a only.
set(CMAKE_CUDA_ARCHITECTURES 90a-real)
set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
enable_language(CUDA)
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")  # which CMake 3.25 does not know yet
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O2")
set(SLUICE_HAS_CUDA ON)

add_library(sluice_cuda INTERFACE)
target_link_libraries(sluice_cuda INTERFACE CUDA::cudart_static CUDA::cublasLt)
# FMT_USE_CONSTEXPR: {fmt} 9 takes nvcc for a compiler without constexpr, and then does not compile.
target_compile_definitions(sluice_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
target_compile_options(sluice_cuda INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror,-ffp-contract=off>)
