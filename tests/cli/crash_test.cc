// Nothing lost: runs that are killed, stopped, damaged or out of disk, and what is left of them.
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <random>
#include <thread>

#include "program.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

constexpr int64_t kSteps = 40, kSaveEvery = 5;

/// One line of metrics.jsonl per step, without its times.
Words training_log(const fs::path& run) {
  Words log;
  for (std::string line : lines_of(read_file(run / "metrics.jsonl"))) {
    if (line.find(R"("kind":"step")") == std::string::npos) continue;
    const size_t begin = line.find(R"("tokens_per_second")"), end = line.find(R"("expert_load")");
    if (begin == std::string::npos || end == std::string::npos) throw Bug("a step line has other fields");
    log.push_back(line.erase(begin, end - begin));
  }
  return log;
}

/// The folder of an unfinished checkpoint and when something in it changed, as text; "" when there is none.
std::string unfinished(const fs::path& run) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run, ignored))
    if (entry.path().extension() == ".partial")
      return fmt::format("{} {}", entry.path().string(),
                         fs::last_write_time(entry, ignored).time_since_epoch().count());
  return "";
}

std::string flipped(std::string bytes, size_t at) {
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  return bytes;
}

/// Names of the finished checkpoints, oldest first.
Words checkpoints(const fs::path& run) {
  Words names;
  for (const auto& entry : fs::directory_iterator(run))
    if (const std::string name = entry.path().filename(); name.starts_with("step-") && name.size() == 13)
      names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

class Crash : public testing::Test {
 protected:
  Crash() {
    write_file(dir_ / "text.txt", sample_text(20000));
    write_file(dir_ / "model.json", model_json());
  }

  Words train(const std::string& out, const Words& more = {}) const {
    Words words{"train",
                "--data",
                dir_ / "text.txt",
                "--model",
                dir_ / "model.json",
                "--out",
                dir_ / out,
                "--steps",
                "40",
                "--threads",
                "1",
                "vocab_size=300",
                "save_every=5",
                "seq_len=32",
                "batch_size=8",
                "micro_batch=4",
                "eval_every=10",
                "warmup_steps=5"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Words resume(const std::string& out, const Words& more = {}) const {
    Words words{"train", "--resume", dir_ / out};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// Goes on with a run that may have been killed before it was known to be one.
  Words go_on(const std::string& out) const { return fs::exists(dir_ / out / "run.yaml") ? resume(out) : train(out); }

  void expect_same_run(const std::string& a, const std::string& b) const {
    EXPECT_EQ(training_log(dir_ / a), training_log(dir_ / b));
    EXPECT_TRUE(read_file(dir_ / a / "latest/model.safetensors") == read_file(dir_ / b / "latest/model.safetensors"));
    EXPECT_EQ(fs::read_symlink(dir_ / b / "latest"), "step-00000040");
    EXPECT_EQ(read_file(dir_ / a / "latest/tokenizer.json"), read_file(dir_ / b / "latest/tokenizer.json"));
  }

  TempDir dir_;
};

/// Waits for a moment of a run at which to kill it.
using Moment = std::function<void(Program&)>;

TEST_F(Crash, KilledAtAnyMomentARunLosesNothing) {
  const auto start = Clock::now();
  ASSERT_EQ(sluice(train("calm")).exit_code, 0);
  const double whole = Milliseconds(Clock::now() - start).count();
  ASSERT_EQ(training_log(dir_ / "calm").size(), static_cast<size_t>(kSteps));

  std::mt19937 random(1);
  const auto pause = [&](double most) {
    std::this_thread::sleep_for(Milliseconds(std::uniform_real_distribution<double>(0, most)(random)));
  };
  const auto anywhere = [&](Program&) { pause(whole * 0.6); };
  std::string before;  // what an earlier kill left behind
  const auto is_saving = [&] {
    const std::string now = unfinished(dir_ / "killed");
    return now != "" && now != before;
  };
  const auto while_saving = [&](Program& p) {
    while (p.is_running() && !is_saving()) std::this_thread::sleep_for(Milliseconds(0.1));
    pause(4);
  };
  int kills = 0, kills_while_saving = 0;
  for (int round = 0; kills < 30 || kills_while_saving < 10; ++round) {
    ASSERT_LT(round, 20);
    fs::remove_all(dir_ / "killed");
    bool finished = false;
    for (int attempt = 0; !finished; ++attempt) {
      ASSERT_LT(attempt, 60);
      before = unfinished(dir_ / "killed");
      Program p(go_on("killed"));
      const Moment& moment = attempt % 2 ? Moment(while_saving) : Moment(anywhere);
      if (attempt < 24) moment(p);
      if (attempt < 24) p.send(SIGKILL);
      const Outcome o = p.wait();
      finished = o.exit_code == 0;
      if (!finished) {
        ASSERT_EQ(o.signal, SIGKILL) << o.err;
        ++kills;
        kills_while_saving += is_saving();
      }
    }
    expect_same_run("calm", "killed");
  }
  RecordProperty("kills", kills);
  fmt::print("{} kills, {} of them while a checkpoint was being written\n", kills, kills_while_saving);
}

TEST_F(Crash, AStopSavesAndSaysHowToGoOn) {
  ASSERT_EQ(sluice(train("calm")).exit_code, 0);
  for (const int signal : {SIGTERM, SIGINT}) {
    const std::string out = fmt::format("stopped{}", signal);
    Outcome o;
    size_t steps = kSteps;
    for (int attempt = 0; steps == kSteps && attempt < 20; ++attempt) {  // it may be done before the signal comes
      fs::remove_all(dir_ / out);
      Program p(train(out));
      while (p.is_running() && !fs::exists(dir_ / out / "metrics.jsonl"))
        std::this_thread::sleep_for(Milliseconds(0.2));
      p.send(signal);
      o = p.wait();
      steps = training_log(dir_ / out).size();
    }
    ASSERT_LT(steps, static_cast<size_t>(kSteps));
    EXPECT_EQ(o.exit_code, 0) << o.err;
    EXPECT_NE(o.err.find(fmt::format("sluice train --resume {}\n", (dir_ / out).string())), std::string::npos) << o.err;
    EXPECT_EQ(fs::read_symlink(dir_ / out / "latest"), fmt::format("step-{:08}", steps));
    ASSERT_EQ(sluice(resume(out)).exit_code, 0);
    expect_same_run("calm", out);
  }
}

TEST_F(Crash, NoComputingThreadIsInterruptedBySignals) {
  const std::string out = "masked";
  Program p(train(out));
  while (p.is_running() && !fs::exists(dir_ / out / "metrics.jsonl")) std::this_thread::sleep_for(Milliseconds(0.2));
  constexpr uint64_t kStops = uint64_t{1} << (SIGINT - 1) | uint64_t{1} << (SIGTERM - 1);
  int blocking = 0, open = 0;
  for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", p.pid()))) {
    std::ifstream status(task.path() / "status");
    std::string field;
    while (status >> field && field != "SigBlk:") {
    }
    uint64_t mask = 0;
    status >> std::hex >> mask;
    ++((mask & kStops) == kStops ? blocking : open);
  }
  EXPECT_GE(blocking, 1);
  EXPECT_EQ(open, 1);  // the thread in sigwait
}

TEST_F(Crash, ADamagedCheckpointIsNamedAndTheOneBeforeIsUsed) {
  ASSERT_EQ(sluice(train("calm")).exit_code, 0);
  ASSERT_EQ(sluice(train("run", {"steps=20"})).exit_code, 0);
  const fs::path newest = dir_ / "run/step-00000020";
  Words files;
  for (const auto& entry : fs::recursive_directory_iterator(newest))
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), newest));
  ASSERT_EQ(files.size(), 8u) << fmt::format("{}", fmt::join(files, " "));
  for (size_t i = 0; i < files.size(); ++i) {
    SCOPED_TRACE(files[i]);
    fs::remove_all(dir_ / "damaged");
    fs::copy(dir_ / "run", dir_ / "damaged", fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    const fs::path file = dir_ / "damaged/step-00000020" / files[i];
    const std::string good = read_file(file);
    std::string bad = i % 2 ? flipped(good, good.size() / 2) : good.substr(0, good.size() / 2);
    if (files[i] == "checksums.json") bad = flipped(good, good.find("crc32") + 10);
    write_file(file, bad);
    const Outcome o = sluice(resume("damaged", {"steps=40"}));
    EXPECT_EQ(o.exit_code, 0) << o.err;
    const std::string named = files[i] == "checksums.json" ? "step-00000020" : files[i];
    const Words lines = lines_of(o.err);
    const auto about = [&](const std::string& text) {
      return std::count_if(lines.begin(), lines.end(), [&](auto& l) { return l.find(text) != l.npos; });
    };
    EXPECT_GE(about(named), 1) << o.err;
    EXPECT_EQ(about("resuming from " + (dir_ / "damaged/step-00000015").string()), 1) << o.err;
    EXPECT_EQ(training_log(dir_ / "damaged").size(), static_cast<size_t>(kSteps));
  }

  for (const std::string& name : checkpoints(dir_ / "run")) fs::resize_file(dir_ / "run" / name / "config.json", 10);
  expect_user_error(sluice(resume("run")), {"no checkpoint to resume from", "config.json: truncated: expected"});
}

TEST_F(Crash, AFullDiskLeavesTheLastCheckpoint) {
  ASSERT_EQ(sluice(train("calm")).exit_code, 0);
  ASSERT_EQ(sluice(train("run", {"steps=20"})).exit_code, 0);
  // A file may not grow beyond the limit: SIGXFSZ, then EFBIG from write, in place of ENOSPC.
  const Outcome o = sluice(resume("run", {"steps=40"}), {.wrapper = {}, .file_bytes = 100000});
  EXPECT_EQ(o.signal, 0);
  EXPECT_EQ(o.exit_code, 2);
  const std::string last = lines_of(o.err).back();
  EXPECT_TRUE(last.starts_with("sluice: ") &&
              last.find("step-00000025.partial/model.safetensors: cannot write") != last.npos)
      << o.err;
  EXPECT_EQ(checkpoints(dir_ / "run"), (Words{"step-00000015", "step-00000020"}));
  EXPECT_EQ(unfinished(dir_ / "run"), "");
  ASSERT_EQ(sluice(resume("run", {"steps=40"})).exit_code, 0);
  EXPECT_EQ(training_log(dir_ / "run").size(), static_cast<size_t>(kSteps));
}

TEST_F(Crash, AFullFileSystemLeavesTheLastCheckpoint) {
  fs::create_directory(dir_ / "small");
  if (mount("tmpfs", (dir_ / "small").c_str(), "tmpfs", 0, "size=1400k") != 0)
    GTEST_SKIP() << "mounting a file system needs root: " << strerror(errno);
  struct Unmount {
    fs::path at;
    ~Unmount() { umount2(at.c_str(), MNT_DETACH); }
  } unmount{dir_ / "small"};
  ASSERT_EQ(sluice(train("calm")).exit_code, 0);
  write_file(dir_ / "small/filler", std::string(1200000, ' '));
  const Outcome refused = sluice(train("small/run"));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_NE(refused.err.find("sluice: out: a checkpoint takes "), std::string::npos) << refused.err;
  EXPECT_FALSE(fs::exists(dir_ / "small/run/metrics.jsonl"));
  fs::remove(dir_ / "small/filler");

  const Outcome o = sluice(train("small/run", {"keep_last=100"}));
  EXPECT_EQ(o.signal, 0);
  EXPECT_EQ(o.exit_code, 2) << o.err;
  EXPECT_NE(lines_of(o.err).back().find("No space left on device"), std::string::npos) << o.err;
  EXPECT_EQ(unfinished(dir_ / "small/run"), "");
  const Words kept = checkpoints(dir_ / "small/run");
  ASSERT_GE(kept.size(), 2u);
  EXPECT_EQ(fs::read_symlink(dir_ / "small/run/latest"), kept.back());
  // Still full: nothing gets worse. With room again, it goes on.
  EXPECT_EQ(sluice(resume("small/run")).exit_code, 2);
  EXPECT_EQ(checkpoints(dir_ / "small/run"), kept);
  for (size_t i = 0; i + 1 < kept.size(); ++i) fs::remove_all(dir_ / "small/run" / kept[i]);
  const Outcome freed = sluice(resume("small/run", {"keep_last=1"}));
  EXPECT_EQ(freed.exit_code, 0) << freed.err;
  expect_same_run("calm", "small/run");
}

TEST_F(Crash, ALossThatIsNotANumberEndsTheRunAndKeepsTheCheckpoint) {
  ASSERT_EQ(sluice(train("run", {"steps=20"})).exit_code, 0);
  const std::string before = read_file(dir_ / "run/step-00000020/model.safetensors");
  const Outcome o = sluice(resume("run", {"steps=40", "lr=1e30", "save_every=100"}));
  EXPECT_EQ(o.exit_code, 2);
  const std::string last = lines_of(o.err).back();
  EXPECT_TRUE(last.starts_with("sluice: step 22: the loss is ")) << last;
  EXPECT_TRUE(read_file(dir_ / "run/step-00000020/model.safetensors") == before);
  EXPECT_EQ(checkpoints(dir_ / "run").back(), "step-00000020");

  // Nor are weights saved that the last update spoiled.
  const Outcome spoiled = sluice(resume("run", {"steps=40", "lr=1e30", "save_every=1"}));
  EXPECT_EQ(spoiled.exit_code, 2);
  EXPECT_TRUE(lines_of(spoiled.err).back().starts_with("sluice: step 21: after the update the loss is "))
      << spoiled.err;
  EXPECT_EQ(checkpoints(dir_ / "run").back(), "step-00000020");
  EXPECT_EQ(sluice(resume("run", {"steps=40"})).exit_code, 0);
  EXPECT_EQ(training_log(dir_ / "run").size(), static_cast<size_t>(kSteps));
}

TEST_F(Crash, ARunIsNotOverwritten) {
  ASSERT_EQ(sluice(train("run", {"steps=5"})).exit_code, 0);
  const std::string log = read_file(dir_ / "run/metrics.jsonl");
  expect_user_error(sluice(train("run")), {"out: expected a folder without a run", "sluice train --resume"});
  EXPECT_EQ(read_file(dir_ / "run/metrics.jsonl"), log);
}

TEST_F(Crash, TwoProcessesDoNotShareARun) {
  Program first(train("run", {"steps=1000000"}));
  while (first.is_running() && !fs::exists(dir_ / "run/latest")) std::this_thread::sleep_for(Milliseconds(1));
  expect_user_error(sluice(resume("run")), {"run: another sluice is at work in this folder"});
}

TEST_F(Crash, AFinishedRunCanBeResumed) {
  ASSERT_EQ(sluice(train("run", {"steps=5", "keep_last=1"})).exit_code, 0);
  const fs::file_time_type written = fs::last_write_time(dir_ / "run/step-00000005/model.safetensors");
  fs::remove(dir_ / "run/latest");  // killed before it was made
  const Outcome o = sluice(resume("run"));
  EXPECT_EQ(o.exit_code, 0) << o.err;
  EXPECT_EQ(fs::last_write_time(dir_ / "run/step-00000005/model.safetensors"), written);
  EXPECT_EQ(fs::read_symlink(dir_ / "run/latest"), "step-00000005");
}

/// A system call of an strace log that succeeded.
struct Call {
  std::string name, arguments;
};

std::vector<Call> read_trace(const fs::path& file) {
  std::vector<Call> calls;
  for (const std::string& line : lines_of(read_file(file))) {
    const size_t name = line.find_first_not_of("0123456789 "), open = line.find('(');
    if (name == std::string::npos || open == std::string::npos || line.find(" = -1 ") != line.npos) continue;
    calls.push_back({line.substr(name, open - name), line.substr(open)});
  }
  return calls;
}

TEST_F(Crash, SavingIsInTheOrderThatSurvivesAPowerCut) {
  if (std::system("strace -V > /dev/null 2>&1") != 0) GTEST_SKIP() << "strace is not installed";
  const Launch launch{{"strace", "-f", "-y", "-s", "4096", "-o", dir_ / "trace", "-e",
                       "trace=openat,write,fsync,rename,symlink,unlink,unlinkat"},
                      RLIM_INFINITY};
  const Outcome o = sluice(train("run", {"steps=5"}), launch);
  if (o.exit_code != 0 && o.err.find("ptrace") != o.err.npos) GTEST_SKIP() << o.err;
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const std::vector<Call> calls = read_trace(dir_ / "trace");
  const auto find = [&](size_t from, const std::string& name, const std::string& text) {
    for (size_t i = from; i < calls.size(); ++i)
      if (calls[i].name == name && calls[i].arguments.find(text) != std::string::npos) return i;
    return calls.size();
  };
  const std::string run = dir_ / "run", partial = run + "/step-00000005.partial", final = run + "/step-00000005";
  const size_t publish = find(0, "rename", fmt::format("(\"{}\", \"{}\")", partial, final));
  ASSERT_LT(publish, calls.size());
  for (const char* file :
       {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
        "trainer/config.yaml", "trainer/state.safetensors", "checksums.json"}) {
    SCOPED_TRACE(file);
    const std::string path = partial + "/" + file;
    const size_t write = find(0, "write", "<" + path + ".tmp>"), sync = find(write, "fsync", "<" + path + ".tmp>");
    const size_t named = find(sync, "rename", path + ".tmp\", ");
    const size_t directory = find(named, "fsync", "<" + fs::path(path).parent_path().string() + ">");
    EXPECT_LT(directory, publish);
    EXPECT_EQ(find(sync, "write", "<" + path + ".tmp>"), calls.size());
  }
  EXPECT_LT(find(0, "fsync", "<" + run + "/metrics.jsonl>"), publish);
  const size_t after = find(publish, "fsync", "<" + run + ">");
  const size_t link = find(after, "symlink", "\"" + run + "/latest.tmp\"");
  const size_t latest = find(link, "rename", fmt::format("(\"{0}/latest.tmp\", \"{0}/latest\")", run));
  EXPECT_LT(find(latest, "fsync", "<" + run + ">"), calls.size());
  EXPECT_EQ(find(0, "unlink", "\"" + run + "/latest\""), calls.size());
}

}  // namespace
}  // namespace sluice
