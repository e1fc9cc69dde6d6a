// What the tests of the planner share.
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "formats/hf_config.h"
#include "plan/cluster.h"

namespace sluice {

inline HfConfig published_model() {
  const std::string file = SLUICE_SOURCE_DIR "/configs/models/deepseek-v3-671b.json";
  return parse_hf_config(read_file(file), file);
}

/// The machine and layout of configs/clusters/h800-2048.yaml.
inline ClusterConfig published_cluster() {
  ClusterConfig c;
  c.gpus = 2048;
  c.nvlink_gb_per_second = 160;
  c.batch_size = 15360;
  c.pipeline = 16, c.expert = 64, c.schedule = "dualpipe", c.micro_tokens = 4096;
  return c;
}

/// The text of the Error that `work` throws; "" where it throws none.
inline std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace sluice
