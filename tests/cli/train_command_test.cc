// Options of `sluice train`.
#include "program.h"

namespace sluice {
namespace {

class TrainCommand : public testing::Test {
 protected:
  TrainCommand() {
    write_file(dir_ / "text.txt", sample_text(20000));
    write_file(dir_ / "model.json", model_json());
    write_file(dir_ / "run.yaml", fmt::format("data: {}\nmodel: {}\nsteps: 7\nlr: 1e-4\nseq_len: 16\nbatch_size: 4\n"
                                              "vocab_size: 300\nthreads: 1\nmtp_modules: 0\n",
                                              (dir_ / "text.txt").string(), (dir_ / "model.json").string()));
  }
  Words train(const Words& more) const {
    Words words{"train", "--config", dir_ / "run.yaml", "--out", dir_ / "out"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  TempDir dir_;
};

TEST_F(TrainCommand, APairBeatsAnOptionBeatsTheFile) {
  const Outcome o = sluice(train({"--steps", "5", "steps=3", "lr=0.002"}));
  ASSERT_EQ(o.exit_code, 0) << o.err;
  for (const char* line : {"\nsteps: 3\n", "\nlr: 0.002\n", "\nseq_len: 16\n", "\nmtp_modules: 0\n"})
    EXPECT_NE(o.err.find(line), std::string::npos) << line << o.err;
  // The resolved configuration is saved: with it a run begins again.
  const std::string saved = read_file(dir_ / "out/latest/trainer/config.yaml");
  EXPECT_EQ(saved, read_file(dir_ / "out/run.yaml"));
  EXPECT_NE(o.err.find(saved), std::string::npos);
  const Outcome again = sluice({"train", "--config", dir_ / "out/run.yaml", "--out", dir_ / "again"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_TRUE(read_file(dir_ / "out/latest/model.safetensors") == read_file(dir_ / "again/latest/model.safetensors"));
}

TEST_F(TrainCommand, ADryRunPlansAndTrainsNothing) {
  const Outcome text = sluice(train({"--dry-run"}));
  ASSERT_EQ(text.exit_code, 0) << text.err;
  for (const char* part : {"model: ", " parameters, ", "memory: ", "of disk", "run: 7 steps", "tokens/s", "GFLOP/s"})
    EXPECT_NE(text.err.find(part), std::string::npos) << part << text.err;
  const Outcome json = sluice(train({"--dry-run", "--json"}));
  ASSERT_EQ(json.exit_code, 0) << json.err;
  EXPECT_EQ(lines_of(json.out).size(), 1u);
  for (const char* key : {"parameters", "active_parameters", "weight_bytes", "optimizer_bytes", "activation_bytes",
                          "checkpoint_bytes", "tokens_per_second", "seconds"})
    EXPECT_NE(json.out.find(fmt::format("\"{}\":", key)), std::string::npos) << key << json.out;
  EXPECT_FALSE(fs::exists(dir_ / "out/metrics.jsonl"));
  EXPECT_FALSE(fs::exists(dir_ / "out/latest"));
}

TEST_F(TrainCommand, PairsMayFollowLists) {
  const Outcome o = sluice({"train", "--out", dir_ / "out", "--model", dir_ / "model.json", "--data", dir_ / "text.txt",
                            "steps=2", "vocab_size=300", "seq_len=16", "threads=1"});
  EXPECT_EQ(o.exit_code, 0) << o.err;
}

TEST_F(TrainCommand, HelpListsEveryKey) {
  const Outcome o = sluice({"train", "--help"});
  EXPECT_EQ(o.exit_code, 0);
  for (const char* key : {"\nlr: ", "\nmicro_batch: ", "\nbias_speed: ", "\nema_decay: ", "\nsample_prompt: "})
    EXPECT_NE(o.out.find(key), std::string::npos) << key;
}

}  // namespace
}  // namespace sluice
