// The ranks that the tests run on: one, or those that mpirun has started.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>

#include "parallel/communicator.h"

namespace sluice::test {

/// From the first test to the last.
class World : public testing::Environment {
 public:
  void SetUp() override { instance() = std::getenv("OMPI_COMM_WORLD_SIZE") ? mpi_communicator() : self_communicator(); }
  void TearDown() override { instance().reset(); }
  static std::unique_ptr<Communicator>& instance() {
    static std::unique_ptr<Communicator> ranks;
    return ranks;
  }
};

inline Communicator& world() { return *World::instance(); }

}  // namespace sluice::test
