// A rank that is killed or stopped: the run ends within ten seconds and says which rank it was, and goes on later.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "../cli/program.h"
#include "base/file.h"
#include "launcher.h"

namespace sluice {
namespace {

class RankFailure : public testing::Test {
 protected:
  static void SetUpTestSuite() { allow_many_ranks(); }
  RankFailure() { write_file(dir_ / "text.txt", sample_text(60000)); }

  Words words() const {
    return {"train",     "--data",           dir_ / "text.txt", "--size",       "tiny",
            "--out",     dir_ / "run",       "vocab_size=300",  "seq_len=32",   "batch_size=6",
            "threads=1", "eval_every=0",     "save_every=2",    "steps=100000", "mtp_modules=0",
            "--model",   dir_ / "model.json"};
  }
  /// Sends `signal` to rank 1 of a run under way; what the run said.
  Outcome strike(const Words& args, int signal) {
    Launch launch;
    launch.wrapper = {"mpirun", "-n", "3"};
    Program run(args, launch);
    for (int i = 0; i < 600 && run.is_running() && !fs::exists(dir_ / "run/latest"); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_TRUE(fs::exists(dir_ / "run/latest")) << run.err();
    const std::vector<pid_t> ranks = ranks_of(run.pid());
    EXPECT_EQ(ranks.size(), 3u);
    if (ranks.size() == 3) kill(ranks[1], signal);
    const auto struck = std::chrono::steady_clock::now();
    Outcome o = run.wait();
    EXPECT_LT(std::chrono::steady_clock::now() - struck, std::chrono::seconds(10));
    for (const pid_t rank : ranks) {  // whose parent has gone
      while (kill(rank, 0) == 0 && std::chrono::steady_clock::now() - struck < std::chrono::seconds(10))
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      EXPECT_NE(kill(rank, 0), 0) << rank;
    }
    return o;
  }

  TempDir dir_;
};

TEST_F(RankFailure, AStoppedRankIsNamed) {
  write_file(dir_ / "model.json", model_json());
  const Outcome o = strike(words(), SIGSTOP);
  EXPECT_NE(o.exit_code, 0);
  for (const int rank : {0, 2})
    EXPECT_NE(
        o.err.find(fmt::format("sluice: rank {}: the run ends: rank 1 has been silent for 6 s; it was at: ", rank)),
        std::string::npos)
        << o.err;
}

TEST_F(RankFailure, AKilledRankIsNamedAndTheRunGoesOn) {
  write_file(dir_ / "model.json", model_json());
  const Outcome o = strike(words(), SIGKILL);
  EXPECT_NE(o.exit_code, 0);
  for (const int rank : {0, 2})
    EXPECT_NE(o.err.find(fmt::format("sluice: rank {}: the run ends: rank 1 does not answer; it was at: ", rank)),
              std::string::npos)
        << o.err;
  const Outcome again = sluice({"train", "--resume", dir_ / "run", "expert_parallel=1", "steps=1"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
}

}  // namespace
}  // namespace sluice
