// Ranks that are struck at random moments: killed, stopped, out of disk, with weights that are not numbers. Every rank
// that is left says which one it was within ten seconds, all end, and the run goes on as if nothing had been.
// SLUICE_STRIKES: of each kind (runs/strikes.sh); SLUICE_SEED: of the moments.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <optional>
#include <random>
#include <sstream>
#include <thread>

#include "../cli/program.h"
#include "formats/safetensors.h"
#include "launcher.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

double since(Clock::time_point start) { return Seconds(Clock::now() - start).count(); }
void pause(double seconds) { std::this_thread::sleep_for(Seconds(seconds)); }

int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

/// How a run is spread over ranks.
struct Layout {
  const char* name;
  int ranks;
  Words keys;
};
const Layout kLayouts[] = {
    {"DP2 x EP2", 4, {"expert_parallel=2", "pipeline_parallel=1"}},
    {"PP2 x EP2 x DP2", 8, {"expert_parallel=2", "pipeline_parallel=2", "schedule=1f1b"}},
    {"PP4", 4, {"expert_parallel=1", "pipeline_parallel=4", "schedule=zb1p"}},
    {"PP2 (DualPipeV) x DP2", 4, {"expert_parallel=1", "pipeline_parallel=2", "schedule=dualpipev"}},
};

/// Memory of another process.
class Memory {
 public:
  explicit Memory(pid_t pid) : pid_(pid), fd_(open(fmt::format("/proc/{}/mem", pid).c_str(), O_RDWR)) {}
  ~Memory() { close(fd_); }
  Memory(const Memory&) = delete;
  bool is_open() const { return fd_ >= 0; }
  /// Addresses of floats near `values`, in memory that no file lies behind.
  std::vector<uintptr_t> find(const std::vector<float>& values) const {
    std::vector<uintptr_t> found;
    std::ifstream maps(fmt::format("/proc/{}/maps", pid_));
    std::vector<float> block;
    for (std::string line; std::getline(maps, line);) {
      uintptr_t begin = 0, end = 0;
      char mode[5] = {};
      unsigned long inode = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx %4s %*s %*s %lu", &begin, &end, mode, &inode) != 4) continue;
      if (std::string(mode) != "rw-p" || inode != 0) continue;
      block.resize((end - begin) / sizeof(float));
      if (pread(fd_, block.data(), end - begin, static_cast<off_t>(begin)) != static_cast<ssize_t>(end - begin))
        continue;
      for (size_t i = 0; i + values.size() <= block.size(); ++i)
        if (is_near(&block[i], values)) found.push_back(begin + i * sizeof(float));
    }
    return found;
  }
  void write(uintptr_t at, float value) const {
    EXPECT_EQ(pwrite(fd_, &value, sizeof value, static_cast<off_t>(at)), static_cast<ssize_t>(sizeof value));
  }

 private:
  static bool is_near(const float* x, const std::vector<float>& values) {
    if (!(std::abs(x[0] - values[0]) < 0.02f)) return false;
    float apart = 0, size = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      apart += (x[i] - values[i]) * (x[i] - values[i]);
      size += values[i] * values[i];
    }
    return apart < 0.1f * size;
  }

  pid_t pid_;
  int fd_;
};

/// What became of a strike.
struct Result {
  double named = 0, over = 0;  // seconds until every rank left had said it, until all had ended
};

class Strike : public testing::Test {
 protected:
  static constexpr int kSteps = 300;

  static void SetUpTestSuite() { allow_many_ranks(); }
  Strike() : random_(static_cast<unsigned>(seed_)) {
    write_file(dir_ / "text.txt", sample_text(60000));
    // A model of four layers, for four stages.
    std::string json = model_json();
    json.replace(json.find("\"num_hidden_layers\": 2"), 22, "\"num_hidden_layers\": 4");
    write_file(dir_ / "model.json", json);
  }

  static Words mpirun(int ranks) { return ranks > 1 ? Words{"mpirun", "-n", std::to_string(ranks)} : Words{}; }
  /// Begins a run, or goes on with it.
  std::unique_ptr<Program> start(const fs::path& run, int ranks, const Words& keys) const {
    Words words{"train", "--resume", run};
    if (!fs::exists(run / "run.yaml"))
      words = {"train",
               "--data",
               dir_ / "text.txt",
               "--model",
               dir_ / "model.json",
               "--out",
               run,
               "vocab_size=300",
               "seq_len=32",
               "threads=1",
               "batch_size=16",
               "micro_batch=2",
               "bias_speed=0.001",
               "lr=3e-4",
               "eval_every=50",
               "save_every=10",
               "keep_last=2",
               "steps=" + std::to_string(kSteps)};
    words.insert(words.end(), keys.begin(), keys.end());
    return std::make_unique<Program>(words, Launch{mpirun(ranks), RLIM_INFINITY});
  }
  void finish(const fs::path& run, int ranks, const Words& keys) const {
    const Outcome o = start(run, ranks, keys)->wait();
    ASSERT_EQ(o.exit_code, 0) << o.err;
  }
  /// Losses, norms and expert counts are those of an undisturbed run, to the bit on the same ranks.
  static void expect_same_run(const fs::path& run, const fs::path& calm, double tolerance = 0, int last = kSteps) {
    const std::vector<StepMetrics> a = steps_of(run), b = steps_of(calm);
    ASSERT_GE(a.size(), static_cast<size_t>(last)) << run;
    ASSERT_GE(b.size(), static_cast<size_t>(last));
    for (size_t i = 0; i < static_cast<size_t>(last); ++i) {
      ASSERT_EQ(a[i].step, static_cast<int64_t>(i + 1));
      ASSERT_NEAR(a[i].loss_main, b[i].loss_main, tolerance * b[i].loss_main) << "step " << i + 1;
      ASSERT_NEAR(*a[i].loss_mtp, *b[i].loss_mtp, tolerance * *b[i].loss_mtp) << "step " << i + 1;
    }
  }

  /// A rank that is to be struck.
  struct Target {
    int rank;
    pid_t pid;
    fs::path run;
  };
  double uniform(double most) { return std::uniform_real_distribution<double>(0, most)(random_); }
  static bool is_saving(const fs::path& run) {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(run, ignored))
      if (entry.path().extension() == ".partial") return true;
    return false;
  }
  /// Where a weight lies that the rank owns: looked for while no copy of it is being written.
  static std::optional<uintptr_t> weight_of(const Target& target, int ranks) {
    for (int attempt = 0; attempt < 200; ++attempt) {
      pause(0.02);
      if (is_saving(target.run)) continue;
      try {
        const SafetensorsFile shard(target.run / "latest" /
                                    shard_name("model", static_cast<size_t>(target.rank), static_cast<size_t>(ranks)));
        const auto largest = std::max_element(
            shard.entries().begin(), shard.entries().end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) { return a.bytes.size() < b.bytes.size(); });
        std::vector<float> values = largest->read_f32();
        values.resize(std::min<size_t>(values.size(), 128));
        const std::vector<uintptr_t> found = Memory(target.pid).find(values);
        if (found.size() == 1 && !is_saving(target.run)) return found[0];
      } catch (const Error&) {  // removed meanwhile, or of other ranks
      }
    }
    return {};
  }
  /// Whether every rank but `silent` has said that it was `struck`.
  static bool is_named(const std::string& err, int struck, int ranks, int silent) {
    std::vector<bool> has_said(static_cast<size_t>(ranks));
    std::istringstream lines(err);
    for (std::string line; std::getline(lines, line);) {
      int rank = -1;
      if (std::sscanf(line.c_str(), "sluice: rank %d: ", &rank) != 1 || rank < 0 || rank >= ranks) continue;
      const std::string other = line.substr(line.find(": ", 8) + 2), name = fmt::format("rank {}", struck);
      if (rank == struck || other.find(name + " ") != other.npos || other.find(name + ":") != other.npos)
        has_said[static_cast<size_t>(rank)] = true;
    }
    if (silent >= 0) has_said[static_cast<size_t>(silent)] = true;
    return std::find(has_said.begin(), has_said.end(), false) == has_said.end();
  }
  /// Waits for the end. `again` is called now and then until the rank is named.
  static Result watch(Program& p, const std::vector<pid_t>& pids, const Target& target, bool is_mute,
                      const std::function<void()>& again) {
    const Clock::time_point start = Clock::now();
    Result r;
    const int ranks = static_cast<int>(pids.size());
    bool is_running = true;
    while (since(start) < 30 && (is_running || r.named == 0)) {
      is_running = p.is_running();
      if (r.named == 0 && is_named(p.err(), target.rank, ranks, is_mute ? target.rank : -1)) r.named = since(start);
      if (!is_running && r.named == 0) break;
      if (again && r.named == 0) again();
      pause(0.02);
    }
    EXPECT_GT(r.named, 0) << "rank " << target.rank << " of " << ranks << " was not named by all:\n" << p.err();
    EXPECT_LT(r.named, 10);
    EXPECT_NE(p.wait().exit_code, 0);
    for (const pid_t pid : pids)  // whose parent has gone
      while (kill(pid, 0) == 0 && since(start) < 30) pause(0.01);
    for (const pid_t pid : pids) EXPECT_NE(kill(pid, 0), 0) << pid;
    r.over = since(start);
    return r;
  }

  struct Kind {
    const char* name;
    bool is_mute;  // the rank itself cannot say anything
    bool needs_weight;
    std::function<void(const Target&, std::optional<uintptr_t>)> strike;
    bool is_repeated = false;
  };
  /// Starts or goes on with `run`, and strikes a random rank at a random moment. Nothing when the run was over before.
  std::optional<Result> strike_once(const Kind& kind, const fs::path& run, const Layout& layout, bool while_saving) {
    const std::unique_ptr<Program> p = start(run, layout.ranks, layout.keys);
    while (p->is_running() && p->err().find("about ") == std::string::npos)
      pause(0.01);  // the plan: all ranks are there
    const std::vector<pid_t> pids = ranks_of(p->pid());
    if (pids.size() != static_cast<size_t>(layout.ranks)) {
      EXPECT_EQ(p->wait().exit_code, 0) << p->err();
      return {};
    }
    const int rank = std::uniform_int_distribution<int>(0, layout.ranks - 1)(random_);
    const Target target{rank, pids[static_cast<size_t>(rank)], run};
    const std::optional<uintptr_t> weight = kind.needs_weight ? weight_of(target, layout.ranks) : std::nullopt;
    pause(uniform(2.5));
    while (while_saving && p->is_running() && !is_saving(run)) pause(0.0005);
    const bool can_strike = p->is_running() && (weight || !kind.needs_weight) &&
                            steps_of(run).size() + 20 < static_cast<size_t>(kSteps);  // or it ends by itself
    if (!can_strike) {
      EXPECT_EQ(p->wait().exit_code, 0) << p->err();
      return {};
    }
    kind.strike(target, weight);
    return watch(*p, pids, target, kind.is_mute,
                 kind.is_repeated ? std::function<void()>([&] { kind.strike(target, weight); }) : nullptr);
  }
  /// So many strikes of a kind, on one layout after the other; the struck run is then that of nobody struck.
  void strikes(const Kind& kind) {
    const int count = from_environment("SLUICE_STRIKES", 1);
    std::vector<Result> results;
    for (size_t l = 0; l < std::size(kLayouts) && static_cast<int>(results.size()) < count; ++l) {
      const Layout& layout = kLayouts[l];
      const fs::path calm = dir_ / fmt::format("calm{}", l), run = dir_ / fmt::format("struck{}", l);
      finish(calm, layout.ranks, layout.keys);
      const size_t until = std::min<size_t>(static_cast<size_t>(count), (l + 1) * static_cast<size_t>(count + 3) / 4);
      for (int attempt = 0; results.size() < until; ++attempt) {
        ASSERT_LT(attempt, 10 * count);
        if (const auto result = strike_once(kind, run, layout, attempt % 2)) {
          results.push_back(*result);
          if (HasFailure()) return;
        } else {
          expect_same_run(run, calm);
          fs::remove_all(run);
        }
      }
      if (l == 1) resume_elsewhere(run, calm);
      if (fs::exists(run)) finish(run, layout.ranks, layout.keys);
      if (fs::exists(run)) expect_same_run(run, calm);
    }
    report(kind, results);
  }
  /// Of 8 ranks' checkpoint: on 1, 2 and 4, as far as sums in other orders do not matter.
  void resume_elsewhere(const fs::path& run, const fs::path& calm) const {
    if (!fs::exists(run / "latest")) return;
    const int last = std::min(std::stoi(fs::read_symlink(run / "latest").string().substr(5)) + 20, kSteps);
    for (const int ranks : {1, 2, 4}) {
      const fs::path copy = dir_ / fmt::format("on{}", ranks);
      fs::remove_all(copy);
      fs::copy(run, copy, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
      finish(copy, ranks,
             {fmt::format("expert_parallel={}", ranks == 4 ? 2 : 1),
              fmt::format("pipeline_parallel={}", std::min(ranks, 2))});
      expect_same_run(copy, calm, 1e-5, last);
    }
  }
  void report(const Kind& kind, const std::vector<Result>& results) const {
    std::vector<double> named, over;
    for (const Result& r : results) named.push_back(r.named), over.push_back(r.over);
    std::sort(named.begin(), named.end());
    std::sort(over.begin(), over.end());
    fmt::print("| {} | {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | (seed {})\n", kind.name, results.size(),
               named[named.size() / 2], named.back(), over[over.size() / 2], over.back(), seed_);
  }

  TempDir dir_;
  int seed_ = from_environment("SLUICE_SEED", 1);
  std::mt19937 random_;
};

TEST_F(Strike, AKilledRankIsNamedAndTheRunGoesOn) {
  strikes({"killed", true, false, [](const Target& t, auto) { kill(t.pid, SIGKILL); }});
}

TEST_F(Strike, AStoppedRankIsNamedAndTheRunGoesOn) {
  strikes({"stopped", true, false, [](const Target& t, auto) { kill(t.pid, SIGSTOP); }});
}

TEST_F(Strike, ARankWithAFullDiskIsNamedAndTheRunGoesOn) {
  strikes({"full disk", false, false, [](const Target& t, auto) {
             const rlimit none{0, RLIM_INFINITY};  // of any file, in place of a disk
             EXPECT_EQ(prlimit(t.pid, RLIMIT_FSIZE, &none, nullptr), 0);
           }});
}

TEST_F(Strike, ARankWithWeightsThatAreNotNumbersIsNamedAndTheRunGoesOn) {
  if (!Memory(getpid()).is_open()) GTEST_SKIP() << "memory of other processes cannot be written";
  strikes({"not a number", false, true, [](const Target& t, std::optional<uintptr_t> weight) {
             if (kill(t.pid, 0) == 0) Memory(t.pid).write(*weight, NAN);
           }});
}

}  // namespace
}  // namespace sluice
