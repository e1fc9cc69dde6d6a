// What this machine can do at most: the roofs that inference is measured against.
#pragma once
#include "base/stream.h"

namespace sluice {

/// Bytes per second that all threads read from memory together: the best of several passes over `bytes`, which should
/// be far more than the caches hold.
double read_bandwidth(Stream& s, size_t bytes);

/// Operations per second (multiply and add apart) of products of 8-bit codes, and of float32 multiply-adds, with all
/// operands in registers or the L1 cache: the best of several rounds on all threads.
double code_rate(Stream& s);
double float_rate(Stream& s);

}  // namespace sluice
