// What several commands share about models named on the command line.
#pragma once
#include <cstdint>
#include <string>
#include <thread>

#include "base/file.h"
#include "formats/hf_config.h"
#include "model/weights.h"

namespace sluice {

/// `--threads`: 0 means every core.
inline int thread_count(int64_t wanted) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return wanted > 0 ? static_cast<int>(wanted) : cores > 0 ? cores : 1;
}

}  // namespace sluice
