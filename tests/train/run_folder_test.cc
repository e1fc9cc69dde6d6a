#include "train/run_folder.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>

#include "../base/temp_dir.h"
#include "formats/checksums.h"
#include "model/checkpoint.h"
#include "train/config.h"

namespace sluice {
namespace {

/// A small model with its optimiser, as in the middle of a run.
struct State {
  explicit State(Precision precision = Precision::f32) : State(make(precision)) { train(); }
  /// As loaded: the optimiser has done nothing.
  explicit State(Model m) : model(std::move(m)), optimizer(s, model, {}), ema(allocate_f32_like(model)) {}

  void train() {
    fill_model(s, *ema, random_rows(model.config, 3));
    Model noise = allocate_f32_like(model);
    fill_model(s, noise, random_rows(model.config, 4));
    const std::vector<Param> g = parameters(optimizer.grad()), n = parameters(noise.weights);
    for (size_t i = 0; i < g.size(); ++i)
      std::copy_n(static_cast<float*>(n[i].matrix->data), n[i].matrix->size(), static_cast<float*>(g[i].matrix->data));
    optimizer.step(s, 1e-3f, optimizer.grad_norm(s));
    progress.sampler = {1, 2, 3};
  }

  static Model make(Precision precision) {
    HfConfig c = builtin_model("tiny", 40, 16);
    c.hidden_size = 8, c.num_hidden_layers = 2, c.num_attention_heads = c.num_key_value_heads = 2;
    c.n_routed_experts = 4, c.intermediate_size = c.moe_intermediate_size = 6;
    c.num_nextn_predict_layers = 1;
    Stream stream(1);
    Model m = allocate_model(c, 1, precision);
    fill_model(stream, m, random_rows(c, 2));
    return m;
  }

  RunState view() { return {model, optimizer, ema ? &ema->weights : nullptr, progress}; }
  void save(const fs::path& out, int64_t step, int64_t keep_last = 100) {
    progress.step = step;
    save_run(s, out, saved(view()),
             {"steps: 9\n", {{"tokenizer.json", "{}"}, {"tokenizer_config.json", "{}"}}, keep_last},
             *self_communicator());
  }

  Stream s{1};
  Model model;
  Optimizer optimizer;
  std::optional<Model> ema;
  RunProgress progress;
};

/// Changes with every bit of a tree.
uint32_t checksum(ModelWeights& w) {
  uint32_t crc = 0;
  for (const Param& p : parameters(w))
    crc = crc32_update(crc, {static_cast<const std::byte*>(p.matrix->data), p.matrix->tensor().bytes()});
  return crc;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

class RunFolder : public testing::Test {
 protected:
  TempDir out_;
  std::vector<std::string> problems_;
};

TEST_F(RunFolder, GivesBackEveryBit) {
  for (const Precision precision : {Precision::f32, Precision::bf16, Precision::fp8}) {
    State saved(precision);
    saved.progress.total_steps = 9, saved.progress.tokens = 1234, saved.progress.seconds = 0.1;
    saved.progress.best_loss = 2.5, saved.progress.best_step = 3;
    const int64_t step = 5 + static_cast<int64_t>(precision);
    saved.save(out_.path(), step);
    const fs::path checkpoint = out_ / fmt::format("step-{:08}", step);
    EXPECT_EQ(find_good_checkpoint(out_.path(), problems_), checkpoint);

    Stream s(1);
    State loaded(load_model(s, checkpoint, precision));
    loaded.progress = {};
    load_run(loaded.s, checkpoint, loaded.view());
    EXPECT_EQ(checksum(loaded.model.weights), checksum(saved.model.weights));
    EXPECT_EQ(checksum(loaded.optimizer.master()), checksum(saved.optimizer.master()));
    EXPECT_EQ(checksum(loaded.optimizer.first_moment()), checksum(saved.optimizer.first_moment()));
    EXPECT_EQ(checksum(loaded.optimizer.second_moment()), checksum(saved.optimizer.second_moment()));
    EXPECT_EQ(checksum(loaded.ema->weights), checksum(saved.ema->weights));
    EXPECT_EQ(loaded.progress.step, step);
    EXPECT_EQ(loaded.progress.total_steps, 9);
    EXPECT_EQ(loaded.progress.tokens, 1234);
    EXPECT_EQ(loaded.progress.seconds, 0.1);
    EXPECT_EQ(loaded.progress.best_loss, 2.5);
    EXPECT_EQ(loaded.progress.best_step, 3);
    EXPECT_EQ(loaded.progress.sampler, (std::vector<int64_t>{1, 2, 3}));
  }
}

TEST_F(RunFolder, IsAHuggingFaceCheckpoint) {
  State state;
  state.save(out_.path(), 1);
  EXPECT_EQ(names_in(out_ / "step-00000001"),
            (std::vector<std::string>{"checksums.json", "config.json", "ema", "generation_config.json",
                                      "model.safetensors", "tokenizer.json", "tokenizer_config.json", "trainer"}));
  EXPECT_EQ(read_file(out_ / "step-00000001/trainer/config.yaml"), "steps: 9\n");
  EXPECT_EQ(resolve_checkpoint(out_.path()), out_ / "latest");
}

TEST_F(RunFolder, KeepsTheNewestAndTheBest) {
  State state;
  for (int64_t step = 1; step <= 6; ++step) {
    if (step == 2) state.progress.best_step = 2;
    state.save(out_.path(), step, 2);
  }
  EXPECT_EQ(names_in(out_.path()),
            (std::vector<std::string>{"best", "latest", "step-00000002", "step-00000005", "step-00000006"}));
  EXPECT_EQ(fs::read_symlink(out_ / "latest"), "step-00000006");
  EXPECT_EQ(fs::read_symlink(out_ / "best"), "step-00000002");
  state.progress.best_step = 7;
  state.save(out_.path(), 7, 0);  // the newest stays in any case
  EXPECT_EQ(names_in(out_.path()), (std::vector<std::string>{"best", "latest", "step-00000007"}));
}

TEST_F(RunFolder, PassesOverDamagedCheckpoints) {
  State state;
  EXPECT_FALSE(has_checkpoints(out_.path()));
  EXPECT_FALSE(find_good_checkpoint(out_ / "nowhere", problems_).has_value());
  for (int64_t step = 1; step <= 3; ++step) state.save(out_.path(), step);
  fs::create_directory(out_ / "step-00000009.partial");  // of a kill
  fs::create_directory(out_ / "step-by-step");
  write_file(out_ / "step-00000008", "not a folder");
  EXPECT_EQ(find_good_checkpoint(out_.path(), problems_), out_ / "step-00000003");
  EXPECT_TRUE(problems_.empty());

  fs::resize_file(out_ / "step-00000003/trainer/state.safetensors", 1000);
  std::string weights = read_file(out_ / "step-00000002/model.safetensors");
  weights.back() = static_cast<char>(weights.back() ^ 1);
  write_file(out_ / "step-00000002/model.safetensors", weights);
  EXPECT_EQ(find_good_checkpoint(out_.path(), problems_), out_ / "step-00000001");
  ASSERT_EQ(problems_.size(), 2u);
  EXPECT_NE(problems_[0].find("step-00000003/trainer/state.safetensors: truncated"), std::string::npos) << problems_[0];
  EXPECT_NE(problems_[1].find("step-00000002/model.safetensors: corrupted"), std::string::npos) << problems_[1];

  fs::remove(out_ / "step-00000001/checksums.json");
  EXPECT_FALSE(find_good_checkpoint(out_.path(), problems_).has_value());
  EXPECT_TRUE(has_checkpoints(out_.path()));

  state.save(out_.path(), 2);  // a damaged one is replaced
  EXPECT_EQ(find_good_checkpoint(out_.path(), problems_), out_ / "step-00000002");
}

TEST_F(RunFolder, LeavesAGoodCheckpointOfTheSameStepAlone) {
  State state;
  state.save(out_.path(), 4);
  const auto written = fs::last_write_time(out_ / "step-00000004");
  fs::remove(out_ / "latest");  // killed before it pointed there
  state.save(out_.path(), 4);
  EXPECT_EQ(fs::last_write_time(out_ / "step-00000004"), written);
  EXPECT_EQ(fs::read_symlink(out_ / "latest"), "step-00000004");
}

TEST_F(RunFolder, AFailedSaveLeavesTheOthers) {
  State state;
  state.save(out_.path(), 1);
  const rlimit none{RLIM_INFINITY, RLIM_INFINITY}, small{1000, RLIM_INFINITY};
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error = error_of([&] { state.save(out_.path(), 2); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  EXPECT_NE(error.find("step-00000002.partial/model.safetensors: cannot write: File too large"), std::string::npos)
      << error;
  EXPECT_EQ(names_in(out_.path()), (std::vector<std::string>{"latest", "step-00000001"}));
  EXPECT_EQ(find_good_checkpoint(out_.path(), problems_), out_ / "step-00000001");
}

TEST_F(RunFolder, NamesWhatTheStateLacks) {
  State saved;
  saved.ema.reset();
  saved.save(out_.path(), 1);
  State loaded;
  EXPECT_NE(error_of([&] {
              load_run(loaded.s, out_ / "step-00000001", loaded.view());
            }).find("trainer: expected a tensor \"ema.model.embed_tokens.weight\", found none"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice
