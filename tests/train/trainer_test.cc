// Whole runs of a model with a few thousand parameters.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "../data/test_data.h"
#include "data/pack.h"
#include "formats/safetensors.h"
#include "model/checkpoint.h"
#include "tokenizer/chat_template.h"

namespace sluice {
namespace {

constexpr const char* kModel =
    R"({"model_type": "deepseek_v3", "vocab_size": 1, "hidden_size": 16, "intermediate_size": 24,
"moe_intermediate_size": 8, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 2,
"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
"max_position_embeddings": 256, "num_nextn_predict_layers": 1, "initializer_range": 0.05})";

Communicator& alone() {
  static const std::unique_ptr<Communicator> self = self_communicator();
  return *self;
}

/// What a run left in metrics.jsonl.
struct Log {
  std::vector<StepMetrics> steps;
  std::vector<EvalMetrics> evals;
};

Log read_log(const fs::path& run) {
  Log log;
  read_metrics(run, [&](const MetricsLine& line) {
    if (const auto* step = std::get_if<StepMetrics>(&line)) log.steps.push_back(*step);
    if (const auto* eval = std::get_if<EvalMetrics>(&line)) log.evals.push_back(*eval);
  });
  return log;
}

/// The numbers of every step that do not depend on time.
std::vector<double> numbers(const Log& log) {
  std::vector<double> v;
  for (const StepMetrics& m : log.steps) {
    v.insert(v.end(), {static_cast<double>(m.step), static_cast<double>(m.tokens), m.loss_main, m.loss_mtp.value_or(-1),
                       m.balance_loss.value_or(-1), m.lr, m.grad_norm, m.max_vio.value_or(-1)});
    for (const auto& layer : m.expert_load) v.insert(v.end(), layer.begin(), layer.end());
  }
  return v;
}

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() {
    dir_.write("text.txt", sample_text(20000));
    dir_.write("model.json", kModel);
  }

  TrainConfig config(const std::string& out) const {
    TrainConfig c;
    c.data = {dir_ / "text.txt"};
    c.model = dir_ / "model.json";
    c.out = dir_ / out;
    c.vocab_size = 300;
    c.steps = 10;
    c.threads = 1;
    c.seq_len = 16;
    c.batch_size = 8;
    c.micro_batch = 4;
    c.warmup_steps = 3;
    c.lr = 0.01;
    c.eval_every = c.save_every = 0;
    return c;
  }

  static Log run(const TrainConfig& c, TrainHooks hooks = {}, bool resume = false) {
    Trainer(c, resume, std::move(hooks), alone()).run();
    return read_log(c.out);
  }

  std::string file(const std::string& out, const std::string& name) const {
    return read_file(dir_ / out / "latest" / name);
  }
  std::vector<float> tensor(const std::string& out, const std::string& name) const {
    return SafetensorsFile(dir_ / out / "latest/model.safetensors").get(name).read_f32();
  }

  Scratch dir_;
};

TEST_F(TrainerTest, LearnsTheText) {
  TrainConfig c = config("run");
  c.steps = 60;
  c.eval_every = 30;
  const Log log = run(c);
  ASSERT_EQ(log.steps.size(), 60u);
  ASSERT_EQ(log.evals.size(), 2u);
  EXPECT_LT(log.steps.back().loss_main, log.steps.front().loss_main - 1.5);
  EXPECT_LT(log.evals[1].loss, log.evals[0].loss);
  EXPECT_EQ(log.evals[1].name, "text");
  EXPECT_GT(log.evals[1].mtp_acceptance.value(), 0.05);
  EXPECT_EQ(log.steps.back().tokens, 60 * 8 * 16);
  const Model m = [&] {
    Stream s(1);
    return load_model(s, dir_ / "run/latest", Precision::f32);
  }();
  EXPECT_EQ(m.config.vocab_size, 300);
  EXPECT_EQ(m.config.num_nextn_predict_layers, 1);
  EXPECT_EQ(Tokenizer::load(dir_ / "run/latest").vocab_size(), 300);
  EXPECT_TRUE(fs::exists(dir_ / "run/report.html"));
}

/// Why the first GPU cannot train; empty where it can.
std::string why_no_gpu() { return why_unusable({Device::Kind::cuda, 0}); }

/// A run that is stopped and resumed twice equals one that is not, on each device and in each precision.
class Resume : public TrainerTest, public testing::WithParamInterface<std::tuple<const char*, const char*>> {
 protected:
  void SetUp() override {
    if (parse_device(std::get<0>(GetParam())).is_cuda() && !why_no_gpu().empty()) GTEST_SKIP() << why_no_gpu();
  }
};

TEST_P(Resume, IsTheSameRun) {
  const auto make = [&](const std::string& out) {
    TrainConfig c = config(out);
    c.device = std::get<0>(GetParam());
    c.precision = std::get<1>(GetParam());
    c.batch_start = 2;
    c.batch_ramp = 0.6;
    c.ema_decay = 0.9;
    c.eval_every = 4;
    c.data = {(dir_ / "text.txt").string() + "=2", dir_.write("other.txt", sample_text(9000, 7)).string() + "=1"};
    return c;
  };
  const Log whole = run(make("whole"));
  ASSERT_EQ(whole.steps.size(), 10u);
  EXPECT_LT(whole.steps.back().loss_main, whole.steps.front().loss_main);

  for (const int stop : {3, 4, 100}) {
    int steps = 0;
    const bool resume = stop > 3;
    Trainer trainer(make("parts"), resume, {[&] { return ++steps == stop; }, {}}, alone());
    EXPECT_EQ(trainer.run(), stop == 100);
    EXPECT_EQ(trainer.progress().step, stop == 3 ? 3 : stop == 4 ? 7 : 10);
  }
  const Log parts = read_log(dir_ / "parts");
  EXPECT_EQ(numbers(parts), numbers(whole));
  ASSERT_EQ(parts.evals.size(), whole.evals.size());
  for (size_t i = 0; i < parts.evals.size(); ++i) EXPECT_EQ(parts.evals[i].loss, whole.evals[i].loss);
  EXPECT_TRUE(file("parts", "model.safetensors") == file("whole", "model.safetensors"));
  EXPECT_TRUE(file("parts", "ema/model.safetensors") == file("whole", "ema/model.safetensors"));
  EXPECT_FALSE(file("whole", "ema/model.safetensors") == file("whole", "model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Runs, Resume,
                         testing::Combine(testing::Values("cpu", "cuda"), testing::Values("f32", "bf16", "fp8")),
                         [](const auto& run) {
                           return std::string(std::get<0>(run.param)) + "_" + std::get<1>(run.param);
                         });

TEST_F(TrainerTest, CudaTrainsAsTheCpuDoes) {
  if (!why_no_gpu().empty()) GTEST_SKIP() << why_no_gpu();
  for (const auto& [precision, tolerance] : {std::pair{"f32", 1e-5}, {"bf16", 5e-3}, {"fp8", 2e-2}}) {
    TrainConfig cpu = config(std::string("cpu-") + precision), gpu = config(std::string("gpu-") + precision);
    cpu.precision = gpu.precision = precision;
    gpu.device = "cuda";
    const Log a = run(cpu), b = run(gpu);
    ASSERT_EQ(a.steps.size(), b.steps.size());
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(b.steps[i].loss_main / a.steps[i].loss_main, 1, tolerance) << precision << " step " << i + 1;
      EXPECT_NEAR(b.steps[i].grad_norm / a.steps[i].grad_norm, 1, 10 * tolerance) << precision << " step " << i + 1;
    }
  }
}

TEST_F(TrainerTest, AGpuThatCannotBeUsedIsOneLineAndTheCpu) {
  TrainConfig c = config("fallback");
  c.device = "cuda:1000";
  Trainer trainer(c, false, {}, alone());
  ASSERT_FALSE(trainer.notes().empty());
  EXPECT_NE(trainer.notes().front().find("training on the CPU"), std::string::npos) << trainer.notes().front();
  EXPECT_TRUE(trainer.run());
  TrainConfig cpu = config("cpu");
  EXPECT_EQ(numbers(read_log(c.out)), numbers(run(cpu)));
}

TEST_F(TrainerTest, EveryPrecisionLearns) {
  for (const char* precision : {"bf16", "fp8"}) {
    TrainConfig c = config(precision);
    c.precision = precision;
    c.steps = 30;
    const Log log = run(c);
    EXPECT_LT(log.steps.back().loss_main, log.steps.front().loss_main - 0.8) << precision;
    EXPECT_NE(file(precision, "config.json").find("\"bfloat16\""), std::string::npos);
  }
}

TEST_F(TrainerTest, ThreadsDoNotChangeTheNumbers) {
  for (const char* precision : {"f32", "bf16", "fp8"}) {
    TrainConfig one = config(std::string("one-") + precision), two = config(std::string("two-") + precision);
    one.precision = two.precision = precision;
    one.eval_every = two.eval_every = 5;
    two.threads = 2;
    EXPECT_EQ(numbers(run(one)), numbers(run(two))) << precision;
    EXPECT_TRUE(file(one.out, "model.safetensors") == file(two.out, "model.safetensors")) << precision;
  }
}

TEST_F(TrainerTest, GradientAccumulationEqualsOneBigBatch) {
  TrainConfig whole = config("whole"), parts = config("parts"), uneven = config("uneven");
  whole.micro_batch = 8, parts.micro_batch = 1, uneven.micro_batch = 3;
  const Log a = run(whole);
  for (const TrainConfig& c : {parts, uneven}) {
    const Log b = run(c);
    ASSERT_EQ(a.steps.size(), b.steps.size());
    for (size_t i = 0; i < a.steps.size(); ++i) {
      EXPECT_NEAR(a.steps[i].loss_main, b.steps[i].loss_main, 1e-5) << "step " << i;
      EXPECT_NEAR(*a.steps[i].loss_mtp, *b.steps[i].loss_mtp, 1e-5) << "step " << i;
      EXPECT_NEAR(*a.steps[i].balance_loss, *b.steps[i].balance_loss, 1e-5) << "step " << i;
      EXPECT_EQ(a.steps[i].tokens, b.steps[i].tokens);
    }
    EXPECT_NEAR(a.steps[0].grad_norm, b.steps[0].grad_norm, 1e-5 * a.steps[0].grad_norm);
    EXPECT_EQ(a.steps[0].expert_load, b.steps[0].expert_load);
  }
}

TEST_F(TrainerTest, RecomputationChangesNothing) {
  TrainConfig c = config("recompute");
  const Log kept = run(config("kept"));
  c.recompute = true;
  EXPECT_EQ(numbers(kept), numbers(run(c)));
  EXPECT_TRUE(file("kept", "model.safetensors") == file("recompute", "model.safetensors"));
}

TEST_F(TrainerTest, TheBatchGrows) {
  TrainConfig c = config("run");
  c.batch_start = 2;
  c.batch_ramp = 0.6;
  const Log log = run(c);
  std::vector<int64_t> rows;
  for (size_t i = 0; i < log.steps.size(); ++i)
    rows.push_back((log.steps[i].tokens - (i ? log.steps[i - 1].tokens : 0)) / c.seq_len);
  EXPECT_EQ(rows, (std::vector<int64_t>{2, 3, 4, 5, 6, 7, 8, 8, 8, 8}));
}

TEST_F(TrainerTest, TrainsOnFromACheckpointWithItsRouterBias) {
  const char* const kBias = "model.layers.1.mlp.gate.e_score_correction_bias";
  TrainConfig first = config("first");
  first.steps = 40;
  first.bias_speed = 0.01;
  const Log before = run(first);
  const std::vector<float> bias = tensor("first", kBias);
  EXPECT_NE(bias, std::vector<float>(4));

  for (const double speed : {0.0, 0.01}) {
    TrainConfig c = config(fmt::format("on-{}", speed));
    c.model.clear();
    c.init_from = first.out;  // the run's folder: its latest checkpoint and tokenizer
    c.bias_speed = speed;
    c.steps = 3;
    const Log after = run(c);
    EXPECT_LT(after.steps[0].loss_main, before.steps[0].loss_main - 1);
    EXPECT_EQ(tensor(fmt::format("on-{}", speed), kBias) == bias, speed == 0);
    EXPECT_FALSE(fs::exists(fs::path(c.out) / "tokenizer"));
  }
}

TEST_F(TrainerTest, TheAverageFollowsTheWeights) {
  TrainConfig c = config("run");
  c.steps = 1;
  c.ema_decay = 0.75;
  run(c);
  Stream s(1);
  const Model model = load_model(s, dir_ / "run/latest", Precision::f32);
  const Model average = load_model(s, dir_ / "run/latest/ema", Precision::f32);
  Model start = allocate_model(model.config, 1, Precision::f32);
  fill_model(s, start, random_rows(model.config, 1));
  const auto at = [](const Model& m, int64_t i) { return static_cast<const float*>(m.weights.head.data)[i]; };
  for (int64_t i = 0; i < model.weights.head.size(); ++i)
    ASSERT_NEAR(at(average, i), 0.75f * at(start, i) + 0.25f * at(model, i), 1e-6f);
  EXPECT_NE(at(model, 0), at(start, 0));
}

TEST_F(TrainerTest, KeepsTheLastAndTheBest) {
  TrainConfig c = config("run");
  c.steps = 15;
  c.save_every = 5;
  c.eval_every = 1;  // also at steps that are not saved
  c.eval = {dir_.write("foreign.txt", std::string(300, '#') + std::string(300, '~'))};  // gets worse
  const Log log = run(c);
  int64_t best = -1, best_of_all = -1;
  double least = std::numeric_limits<double>::infinity(), least_of_all = least;
  for (const EvalMetrics& e : log.evals) {
    if (e.step % 5 == 0 && e.loss < least) least = e.loss, best = e.step;
    if (e.loss < least_of_all) least_of_all = e.loss, best_of_all = e.step;
  }
  ASSERT_NE(best_of_all % 5, 0) << "the best step must be one that is not saved";
  ASSERT_LT(best, 9) << "the held-out loss must rise in this test";
  EXPECT_EQ(fs::read_symlink(dir_ / "run/best"), fmt::format("step-{:08}", best));
  EXPECT_EQ(fs::read_symlink(dir_ / "run/latest"), "step-00000015");
  std::vector<std::string> kept;
  for (const auto& entry : fs::directory_iterator(c.out))
    if (entry.path().filename().string().starts_with("step-")) kept.push_back(entry.path().filename());
  std::sort(kept.begin(), kept.end());
  EXPECT_EQ(kept, (std::vector<std::string>{fmt::format("step-{:08}", best), "step-00000010", "step-00000015"}));
}

TEST_F(TrainerTest, TakesPackedShards) {
  TrainConfig text = config("text");
  text.eval_fraction = 0;
  const Log log = run(text);
  const Tokenizer tokenizer = Tokenizer::load(dir_ / "text/tokenizer");
  pack_to_folder({{dir_ / "text.txt"}, {dir_.write("held-out.txt", sample_text(3000, 5))}}, tokenizer, {},
                 dir_ / "packed");
  TrainConfig packed = config("packed-run");
  packed.data = {dir_ / "packed"};
  packed.eval = {dir_ / "packed"};
  packed.tokenizer = dir_ / "text/tokenizer";
  const Log from_shards = run(packed);
  EXPECT_EQ(numbers(log), numbers(from_shards));
  EXPECT_EQ(from_shards.evals.at(0).name, "packed");
}

TEST_F(TrainerTest, LearnsFromTheAnswersOfChatsOnly) {
  std::string lines;
  for (int i = 0; i < 40; ++i)
    lines +=
        R"({"messages": [{"role": "user", "content": "one two three four"}, {"role": "assistant", "content": "yes, sea"}]})"
        "\n";
  TrainConfig c = config("run");
  c.data = {dir_.write("chats.jsonl", lines)};
  const Log log = run(c);
  EXPECT_LT(log.steps.back().loss_main, log.steps.front().loss_main);
  const int64_t positions = c.steps * c.batch_size * c.seq_len;
  EXPECT_LT(log.steps.back().tokens, positions * 3 / 4);
  EXPECT_GT(log.steps.back().tokens, positions / 20);
  // What chats have trained is to be asked as in them; the tokenizer alone says nothing of that.
  const auto chat_template = [&](const char* folder) {
    const fs::path file = fs::path(c.out) / folder / "tokenizer_config.json";
    return parse_tokenizer_config(read_file(file), file.string()).chat_template;
  };
  EXPECT_EQ(chat_template("latest"), chat_template_jinja());
  EXPECT_EQ(chat_template("tokenizer"), "");
}

TEST_F(TrainerTest, WritesSamplesAndEvaluatesNamedTexts) {
  TrainConfig c = config("run");
  c.steps = 4;
  c.sample_every = 2;
  c.sample_prompt = "the";
  c.eval = {dir_.write("a.txt", sample_text(2000, 3)), dir_.write("b.txt", sample_text(2000, 4))};
  int samples = 0;
  TrainHooks hooks;
  hooks.sample = [&](const Model& m, const Tokenizer& t, const std::string& prompt) {
    EXPECT_EQ(m.config.vocab_size, t.vocab_size());
    return fmt::format("{} {}", prompt, ++samples);
  };
  const Log log = run(c, hooks);
  EXPECT_EQ(samples, 2);
  ASSERT_EQ(log.evals.size(), 2u);
  EXPECT_EQ(log.evals[0].name, "a");
  EXPECT_EQ(log.evals[1].name, "b");
  EXPECT_NE(read_file(dir_ / "run/metrics.jsonl").find(R"("text":"the 2")"), std::string::npos);
}

TEST_F(TrainerTest, PlansBeforeItTrains) {
  TrainConfig c = config("run");
  Trainer trainer(c, false, {}, alone());
  const TrainPlan plan = trainer.plan();
  EXPECT_EQ(plan.steps, 10);
  EXPECT_GT(plan.tokens_per_second, 0);
  EXPECT_NEAR(plan.seconds, 10 * 8 * 16 / plan.tokens_per_second, 1e-9);
  EXPECT_NEAR(static_cast<double>(plan.weight_bytes), static_cast<double>(plan.parameters * 4), 1000);  // alignment
  EXPECT_GT(plan.checkpoint_bytes, 2 * plan.weight_bytes);
  EXPECT_FALSE(has_checkpoints(c.out));
  // Measuring the speed has not touched the run.
  EXPECT_TRUE(trainer.run());
  EXPECT_EQ(numbers(read_log(c.out)), numbers(run(config("other"))));
}

TEST_F(TrainerTest, ATokenizerOfAnotherConfigurationIsMadeAnew) {
  TrainConfig c = config("run");
  Trainer(c, false, {}, alone()).plan();  // as --dry-run
  const auto written = fs::last_write_time(dir_ / "run/tokenizer/tokenizer.json");
  Trainer(c, false, {}, alone()).plan();
  EXPECT_EQ(fs::last_write_time(dir_ / "run/tokenizer/tokenizer.json"), written);
  c.vocab_size = 320;
  run(c);
  EXPECT_EQ(Tokenizer::load(dir_ / "run/tokenizer").vocab_size(), 320);
}

TEST_F(TrainerTest, KeepsToItsTime) {
  TrainConfig c = config("run");
  c.steps = 0;
  c.time = "1s";
  const Log log = run(c);
  ASSERT_FALSE(log.steps.empty());
  EXPECT_GT(log.steps.back().seconds, 0.5);
  EXPECT_LT(log.steps.back().seconds, 1.6);
}

TEST_F(TrainerTest, ALongerRunCanFollow) {
  TrainConfig c = config("run");
  run(c);
  c.steps = 15;
  c.save_every = 1;  // the checkpoint it resumed from is removed on the way
  c.keep_last = 1;
  EXPECT_EQ(run(c, {}, true).steps.size(), 15u);
  EXPECT_EQ(Tokenizer::load(dir_ / "run/latest").vocab_size(), 300);
}

TEST_F(TrainerTest, RefusesWhatDoesNotFitTogether) {
  const auto refused = [&](const TrainConfig& c, bool resume, const std::string& part) {
    expect_contains(error_of([&] { Trainer(c, resume, {}, alone()); }), part);
  };
  TrainConfig c = config("run");
  run(c);
  refused(c, false, "out: expected a folder without a run");
  refused(config("nowhere"), true, "nowhere: no checkpoint to resume from");
  c.precision = "bf16";
  refused(c, true, "trainer: expected a tensor \"master.model.embed_tokens.weight\"");
  c = config("run");
  c.seq_len = 8;
  refused(c, true, "sequence length: expected 8, found 16");
  c = config("run");
  c.data = {dir_.write("other.txt", sample_text(20000, 9))};
  refused(c, true, "other.txt: expected the data that the run began with");

  c = config("small");
  c.model.clear();
  c.init_from = dir_ / "run";
  c.tokenizer = dir_ / "big";
  BpeTrainer trainer;
  trainer.add_text(sample_text(20000));
  save_tokenizer(dir_ / "big", trainer.train(400), trained_tokenizer_config());
  refused(c, false, "vocab_size: expected at least the tokenizer's");
  c = config("large");
  c.batch_size = c.micro_batch = 1 << 22;
  refused(c, false, "memory: the run needs");
}

}  // namespace
}  // namespace sluice
