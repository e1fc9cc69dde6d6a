// What the float32 GEMM library reaches on this machine by itself: the roof that training is measured against.
#pragma once
#include <string>

namespace sluice {

/// Floating-point operations per second of 1024 x 1024 x 1024 products, one library call cut over `threads` threads in
/// row blocks; the best of three rounds of at least 0.1 s.
double gemm_peak_flops(int threads);

/// Library, version and instruction set.
std::string gemm_library();

}  // namespace sluice
