// The ranks that the tests run on: one, or those that mpirun has started.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>

#include "parallel/communicator.h"

namespace sluice::test {

/// From the first test to the last.
class World : public testing::Environment {
 public:
  void SetUp() override {
    const char* expected = std::getenv("SLUICE_TEST_RANKS");
    instance() = expected ? mpi_communicator() : self_communicator();
    ASSERT_EQ(instance()->size(), expected ? std::atoi(expected) : 1);
  }
  void TearDown() override { instance().reset(); }
  static std::unique_ptr<Communicator>& instance() {
    static std::unique_ptr<Communicator> ranks;
    return ranks;
  }
};

inline Communicator& world() { return *World::instance(); }

}  // namespace sluice::test
