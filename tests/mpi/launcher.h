// How tests start several ranks on one machine, find them, and read what a run has logged.
#pragma once
#include <sys/types.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <variant>
#include <vector>

#include "base/file.h"
#include "formats/metrics_json.h"

namespace sluice {

/// Open MPI's permission to run as root and to have more ranks than cores, for what this process starts.
inline void allow_many_ranks() {
  for (const char* name :
       {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"})
    setenv(name, "1", 1);
  setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
}

/// Process ids of the ranks, in their order.
inline std::vector<pid_t> ranks_of(pid_t mpirun) {
  std::vector<std::pair<int, pid_t>> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    std::ifstream stat(entry.path() / "stat"), environment(entry.path() / "environ", std::ios::binary);
    std::string text;
    if (pid <= 0 || !std::getline(stat, text)) continue;
    pid_t parent = 0;
    if (std::sscanf(text.c_str() + text.rfind(')') + 1, " %*c %d", &parent) != 1 || parent != mpirun) continue;
    for (std::string variable; std::getline(environment, variable, '\0');)
      if (variable.starts_with("OMPI_COMM_WORLD_RANK=")) found.emplace_back(std::stoi(variable.substr(21)), pid);
  }
  std::sort(found.begin(), found.end());
  std::vector<pid_t> pids;
  for (const auto& [rank, pid] : found) pids.push_back(pid);
  return pids;
}

/// The steps of metrics.jsonl so far.
inline std::vector<StepMetrics> steps_of(const fs::path& run) {
  std::vector<StepMetrics> steps;
  std::ifstream log(run / "metrics.jsonl");
  for (std::string line; std::getline(log, line) && !log.eof();)  // but for a last line that is being written
    if (const MetricsLine m = parse_metrics_line(line, run); std::holds_alternative<StepMetrics>(m))
      steps.push_back(std::get<StepMetrics>(m));
  return steps;
}

}  // namespace sluice
