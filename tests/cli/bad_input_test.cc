// What the user gets wrong: one line on stderr that says where and what was expected, exit code 2, never a crash.
#include <functional>

#include "program.h"

namespace sluice {
namespace {

struct Wrong {
  const char* name;
  Words args;   // "@" at the start of a word stands for the folder of the tests
  Words parts;  // of the message
};

/// Text, model shape, tokenizer and checkpoint that are right, made once, and files that are wrong.
class BadInput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_file(*dir_ / "text.txt", sample_text(20000));
    write_file(*dir_ / "model.json", model_json());
    ASSERT_EQ(sluice({"init", "--config", at("model.json"), "--type", "f32", "--out", at("good")}).exit_code, 0);
    ASSERT_EQ(
        sluice({"tokenizer", "train", "--data", at("text.txt"), "--vocab-size", "300", "--out", at("good")}).exit_code,
        0);
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }

  static std::string at(const std::string& name) { return *dir_ / name; }

  static void run(const Wrong& w) {
    SCOPED_TRACE(w.name);
    Words args;
    for (const std::string& word : w.args) args.push_back(word[0] == '@' ? at(word.substr(1)) : word);
    expect_user_error(sluice(args), w.parts);
  }

  /// `args` after a complete `sluice train`.
  static Wrong train(const char* name, const Words& args, const Words& parts) {
    Wrong w{name, {"train", "--out", "@out", "--threads", "1", "steps=2", "seq_len=16", "vocab_size=300"}, parts};
    bool has_data = false, has_model = false;
    for (const std::string& a : args) has_data |= a == "--data", has_model |= a == "--model" || a == "--init-from";
    if (!has_data) w.args.insert(w.args.end(), {"--data", "@text.txt"});
    if (!has_model) w.args.insert(w.args.end(), {"--model", "@model.json"});
    w.args.insert(w.args.end(), args.begin(), args.end());
    return w;
  }

  /// A copy of the good checkpoint in which `change` has broken something.
  static void break_copy(const std::string& name, const std::function<void(const fs::path&)>& change) {
    fs::copy(at("good"), at(name));
    change(at(name));
  }

  inline static TempDir* dir_ = nullptr;
};

void replace_in(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = read_file(file);
  const size_t begin = text.find(from);
  ASSERT_NE(begin, std::string::npos) << from;
  write_file(file, text.replace(begin, from.size(), to));
}

TEST_F(BadInput, OfTraining) {
  write_file(*dir_ / "empty.txt", "");
  write_file(*dir_ / "short.txt", "a few words");
  write_file(*dir_ / "bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": 5}\n");
  write_file(*dir_ / "bad.yaml", "lr: 1e-3\nmicro_bach: 4\n");
  write_file(*dir_ / "twice.yaml", "lr: 1e-3\nlr: 2e-3\n");
  write_file(*dir_ / "type.yaml", "lr: [1, 2]\n");
  write_file(*dir_ / "broken.yaml", "steps: 1\nlr: [1, 2\n");
  write_file(*dir_ / "broken.json", model_json().substr(0, 100));
  write_file(*dir_ / "negative.json", model_json(", \"hidden_size_\": 0, \"initializer_range\": -1"));
  const std::vector<Wrong> cases{
      {"nothing", {}, {"subcommand is required"}},
      {"command", {"trian"}, {"trian: expected a command"}},
      {"option", {"train", "--dta", "x"}, {"--dta"}},
      {"no data", {"train", "--out", "@out", "steps=1"}, {"data: expected at least one text file, found nothing"}},
      {"no length", {"train", "--out", "@out", "--data", "@text.txt"}, {"steps: expected a number of steps or a time"}},
      {"nothing to resume", {"train", "--resume", "@nowhere"}, {"nowhere: no checkpoint to resume from"}},
      {"out is a file", {"train", "--out", "@text.txt", "--data", "@text.txt", "steps=1"}, {"out: expected a folder"}},
      train("no such text", {"--data", "@nowhere.txt"}, {"nowhere.txt: expected data files, found none"}),
      train("empty text", {"--data", "@empty.txt"}, {"empty.txt: expected text, found none"}),
      train("short text", {"--data", "@short.txt"}, {"short.txt: expected at least 17 tokens"}),
      train("bad line", {"--data", "@bad.jsonl"}, {"bad.jsonl:2: text: expected a string, found 5"}),
      train("bad weight", {"--data", "@text.txt=nan"}, {"text.txt=nan: expected PATTERN or PATTERN=WEIGHT"}),
      train("held out twice", {"--eval", "@text.txt"}, {"text.txt: expected a file in training or in held-out data"}),
      train("unknown key", {"micro_bach=4"}, {"command line: unknown key micro_bach; the nearest is micro_batch"}),
      train("unknown key in a file", {"--config", "@bad.yaml"},
            {"bad.yaml: unknown key micro_bach; the nearest is micro_batch"}),
      train("key twice", {"--config", "@twice.yaml"}, {"twice.yaml: lr: found twice"}),
      train("type", {"--config", "@type.yaml"}, {"type.yaml: lr: expected a number, found a list or map"}),
      train("YAML", {"--config", "@broken.yaml"}, {"broken.yaml:3: end of sequence flow not found"}),
      train("YAML folder", {"--config", "@good"}, {"good: expected a regular file"}),
      train("no YAML", {"--config", "@nowhere.yaml"}, {"nowhere.yaml: cannot open"}),
      train("JSON", {"--model", "@broken.json"}, {"broken.json: malformed JSON"}),
  };
  for (const Wrong& w : cases) {
    fs::remove_all(at("out"));
    run(w);
  }
}

TEST_F(BadInput, OfTrainingKeys) {
  const std::vector<Wrong> cases{
      train("no pair", {"lr"}, {"expected key=value, found lr"}),
      train("not a number", {"lr=fast"}, {"lr: expected a number, found fast"}),
      train("NaN", {"lr=.nan"}, {"lr: expected a number above 0, found nan"}),
      train("infinity", {"clip_norm=.inf"}, {"clip_norm: expected a number of at least 0, found inf"}),
      train("fraction", {"steps=1.5"}, {"steps: expected an integer, found 1.5"}),
      train("beyond 64 bits", {"steps=99999999999999999999"}, {"steps: expected an integer, found 9999"}),
      train("negative", {"batch_size=-1"}, {"batch_size: expected an integer from 1, found -1"}),
      train("zero", {"micro_batch=0"}, {"micro_batch: expected an integer from 1, found 0"}),
      train("threads", {"threads=100000000"}, {"threads: expected an integer up to 1024, found 100000000"}),
      train("share", {"fim_rate=2"}, {"fim_rate: expected a number from 0 to 1, found 2"}),
      train("duration", {"time=soon"}, {"time: expected a duration such as 90s"}),
      train("long duration", {"time=1e300d"}, {"time: expected a duration"}),
      train("precision", {"precision=f16"}, {"precision: expected f32, bf16 or fp8, found f16"}),
      train("micro-batch beyond memory", {"batch_size=10000000", "micro_batch=10000000"},
            {"memory: the run needs", "the machine has"}),
      train("micro-batch beyond all", {"batch_size=100000000", "micro_batch=100000000"},
            {"micro_batch: expected micro_batch x seq_len below 2^28"}),
      train("batch beyond memory", {"batch_size=2000000000", "micro_batch=1"}, {"memory: the run needs"}),
      train("sizes that overflow", {"seq_len=9000000000000000000"}, {"seq_len: expected an integer from 1"}),
      train("long sequence", {"seq_len=10000000"}, {"text.txt: expected at least 10000001 tokens"}),
      train("no tokenizer", {"--tokenizer", "@nowhere"}, {"nowhere/tokenizer.json: cannot open"}),
      train("start and shape", {"--init-from", "@good", "--model", "@model.json"},
            {"init_from: expected no size, model or mtp_modules beside it"}),
      train("no start", {"--init-from", "@nowhere"}, {"nowhere: expected a checkpoint folder with config.json"}),
  };
  for (const Wrong& w : cases) {
    fs::remove_all(at("out"));
    run(w);
  }
}

TEST_F(BadInput, OfCheckpoints) {
  const char* const embed = R"("model.embed_tokens.weight":{"dtype":"F32","shape":[300,16])";
  const auto weights = [](const fs::path& folder) { return folder / "model.safetensors"; };
  break_copy("empty", [&](auto& f) { fs::resize_file(weights(f), 0); });
  break_copy("cut-header", [&](auto& f) { fs::resize_file(weights(f), 100); });
  break_copy("cut-data", [&](auto& f) { fs::resize_file(weights(f), fs::file_size(weights(f)) - 100); });
  break_copy("shape", [&](auto& f) {
    replace_in(weights(f), embed, R"("model.embed_tokens.weight":{"dtype":"F32","shape":[150,32])");
  });
  break_copy("dtype", [&](auto& f) {
    replace_in(weights(f), embed, R"("model.embed_tokens.weight":{"dtype":"I32","shape":[300,16])");
  });
  break_copy("name", [&](auto& f) { replace_in(weights(f), "\"model.norm.weight\"", "\"model.norm.wxight\""); });
  break_copy("mtp", [&](auto& f) { replace_in(weights(f), "layers.2.enorm", "layers.9.enorm"); });
  break_copy("config", [&](auto& f) { replace_in(f / "config.json", R"("hidden_size": 16)", R"("hidden_size": 32)"); });
  break_copy("huge",
             [&](auto& f) { replace_in(f / "config.json", R"("hidden_size": 16)", R"("hidden_size": 99999999)"); });
  break_copy("vocabulary",
             [&](auto& f) { replace_in(f / "config.json", R"("vocab_size": 300)", R"("vocab_size": 200)"); });
  break_copy("no-config", [&](auto& f) { fs::remove(f / "config.json"); });
  break_copy("folder", [&](auto& f) { fs::remove(weights(f)), fs::create_directory(weights(f)); });
  break_copy("tokenizer", [&](auto& f) { write_file(f / "tokenizer.json", "{"); });
  const std::vector<std::pair<const char*, Words>> cases{
      {"empty", {"empty/model.safetensors: header length: expected 8 bytes, found 0"}},
      {"cut-header", {"cut-header/model.safetensors: truncated: expected a header of"}},
      {"cut-data", {"cut-data/model.safetensors: ", "data_offsets"}},
      {"shape", {"shape/model.safetensors: model.embed_tokens.weight: expected shape [300, 16]", "found [150, 32]"}},
      {"dtype", {"dtype/model.safetensors: ", "model.embed_tokens.weight", "I32"}},
      {"name", {"/name: expected a tensor \"model.norm.weight\", found none"}},
      {"mtp", {"/mtp: model.layers.2.enorm.weight: missing"}},
      {"config", {"model.embed_tokens.weight: expected shape [300, 32] (from config.json), found [300, 16]"}},
      {"huge", {"memory: "}},
      {"vocabulary", {"vocab"}},
      {"no-config", {"/no-config: expected a checkpoint folder with config.json"}},
      {"folder", {"folder/model.safetensors: expected a regular file"}},
      {"tokenizer", {"tokenizer/tokenizer.json: "}},
  };
  for (const auto& [name, parts] : cases) {
    fs::remove_all(at("out"));
    run({name,
         {"train", "--data", "@text.txt", "--init-from", at(name), "--threads", "1", "--out", "@out", "steps=2"},
         parts});
  }
}

TEST_F(BadInput, OfOtherCommands) {
  write_file(*dir_ / "type.json", R"({"model_type": "deepseek_v3", "vocab_size": "many"})");
  write_file(*dir_ / "twice.json", R"({"model_type": "deepseek_v3", "model_type": "deepseek_v3"})");
  write_file(*dir_ / "deep.json", std::string(100000, '['));
  const std::vector<Wrong> cases{
      {"inspect nothing", {"inspect"}, {"model is required"}},
      {"inspect nowhere", {"inspect", "@nowhere"}, {"nowhere: cannot open"}},
      {"inspect text", {"inspect", "@text.txt"}, {"text.txt: malformed JSON"}},
      {"inspect type", {"inspect", "@type.json"}, {"type.json: vocab_size: expected an integer", "found \"many\""}},
      {"inspect duplicate", {"inspect", "@twice.json"}, {"twice.json: duplicate key \"model_type\""}},
      {"inspect deep", {"inspect", "@deep.json"}, {"deep.json: JSON is nested deeper than 64"}},
      {"init without shape", {"init", "--out", "@new"}, {"--config is required"}},
      {"init dtype",
       {"init", "--config", "@model.json", "--out", "@new", "--type", "int8"},
       {"--type: expected f32, bf16 or fp8", "found \"int8\""}},
      {"init full",
       {"init", "--config", "@model.json", "--out", "@good"},
       {"good: expected a folder that does not exist or is empty"}},
      {"init file", {"init", "--config", "@model.json", "--out", "@text.txt"}, {"text.txt: expected a folder"}},
      {"init under a file",
       {"init", "--config", "@model.json", "--out", "@text.txt/new"},
       {"text.txt/new: ", "Not a directory"}},
      {"init threads",
       {"init", "--config", "@model.json", "--out", "@new", "--threads", "-1"},
       {"--threads: Value -1 not in range"}},
      {"score id",
       {"score", "--model", "@good", "--ids", "1,300"},
       {"token ids: expected 0 to 299 (vocab_size), found 300"}},
      {"score nothing", {"score", "--model", "@good"}, {"expected --text, --file or --ids"}},
      {"generate nowhere",
       {"generate", "--model", "@nowhere", "--prompt", "x"},
       {"nowhere: expected a checkpoint folder"}},
      {"pack nothing",
       {"data", "pack", "--data", "@nowhere", "--model", "@good", "--out", "@pack"},
       {"nowhere: expected data files"}},
      {"pack rate",
       {"data", "pack", "--data", "@text.txt", "--model", "@good", "--out", "@pack", "--fim-rate", "nan"},
       {"FIM rate: expected a number between 0 and 1, found nan"}},
      {"no pack", {"data", "info", "@good"}, {"good: expected packed data"}},
      {"small vocabulary",
       {"tokenizer", "train", "--data", "@text.txt", "--vocab-size", "3", "--out", "@tok"},
       {"vocabulary size: expected 275 to"}},
  };
  for (const Wrong& w : cases) run(w);
}

}  // namespace
}  // namespace sluice
