// quantize, convert, and GGUF files as models.
#include "program.h"

namespace sluice {
namespace {

class GgufCommands : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_file(*dir_ / "text.txt", sample_text(20000));
    std::string json = model_json();
    for (const auto& [from, to] : {std::pair{"\"hidden_size\": 16", "\"hidden_size\": 256"}, {": 300", ": 400"}})
      json.replace(json.find(from), std::string(from).size(), to);
    write_file(*dir_ / "model.json", json);
    ASSERT_EQ(
        run({"tokenizer", "train", "--data", "@text.txt", "--vocab-size", "400", "--out", "@tokenizer"}).exit_code, 0);
    const Outcome o =
        run({"init", "--config", "@model.json", "--type", "f32", "--tokenizer", "@tokenizer", "--out", "@hf"});
    ASSERT_EQ(o.exit_code, 0) << o.err;
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  /// `@name` is a name in the folder.
  static Outcome run(Words words) {
    for (std::string& w : words)
      if (w.starts_with('@')) w = (*dir_ / w.substr(1)).string();
    return sluice(words);
  }
  static std::string ok(const Words& words) {
    const Outcome o = run(words);
    EXPECT_EQ(o.exit_code, 0) << o.err;
    if (words[0] == "convert" || words[0] == "quantize") {
      EXPECT_EQ(o.err, "") << "stderr is no terminal";
    }
    return o.out;
  }
  static std::string scores(const std::string& model) {
    return ok({"score", "--model", model, "--text", "the other side", "--json", "--threads", "1"});
  }
  static TempDir* dir_;
};

TempDir* GgufCommands::dir_ = nullptr;

TEST_F(GgufCommands, Float32SurvivesBothLayouts) {
  ok({"convert", "@hf", "--out", "@a.gguf"});
  ok({"convert", "@a.gguf", "--out", "@back"});
  EXPECT_EQ(scores("@hf"), scores("@a.gguf"));
  EXPECT_EQ(scores("@hf"), scores("@back"));
  EXPECT_TRUE(read_file(*dir_ / "hf/model.safetensors") == read_file(*dir_ / "back/model.safetensors"));
  ok({"init", "--config", "@model.json", "--type", "f32", "--tokenizer", "@tokenizer", "--out", "@b.gguf"});
  EXPECT_TRUE(read_file(*dir_ / "a.gguf") == read_file(*dir_ / "b.gguf"));
}

TEST_F(GgufCommands, BoundedMemoryChangesNoResult) {
  ok({"quantize", "@hf", "--type", "bf16", "--out", "@bounded.gguf"});
  const Words score = {"score", "--model", "@bounded.gguf", "--text", "the other side", "--json", "--ctx", "64"};
  const std::string expected = ok(score);
  Words bounded = score;
  bounded.insert(bounded.end(), {"--memory", "40MiB"});
  const Outcome o = run(bounded);
  EXPECT_EQ(o.exit_code, 0);
  EXPECT_NE(o.err.find("routed experts; at worst"), std::string::npos) << o.err;
  EXPECT_EQ(o.out.substr(0, o.out.find(",\"experts_asked\":")) + "}\n", expected);
  bounded.back() = "1MiB";
  const Outcome small = run(bounded);
  EXPECT_EQ(small.exit_code, 2);
  EXPECT_NE(small.err.find("--memory: expected at least"), std::string::npos) << small.err;
  const Outcome folder = run({"score", "--model", "@hf", "--text", "x", "--memory", "1GiB"});
  EXPECT_EQ(folder.exit_code, 2);
  EXPECT_NE(folder.err.find("expected a GGUF file (sluice quantize"), std::string::npos) << folder.err;
}

TEST_F(GgufCommands, QuantisedModelsRun) {
  for (const char* type : {"q8_0", "q4_k", "bf16"}) {
    const std::string file = std::string("@") + type + ".gguf";
    const std::string line = ok({"quantize", "@hf", "--type", type, "--out", file});
    EXPECT_NE(line.find(" bits each"), std::string::npos) << line;
    EXPECT_NE(scores(file), scores("@hf"));
    const std::string text = ok({"generate", "--model", file, "--prompt", "the", "--max-tokens", "4", "--temperature",
                                 "0", "--json", "--threads", "1"});
    EXPECT_NE(text.find("\"tokens\":4"), std::string::npos) << text;
    EXPECT_NE(ok({"inspect", "--json", file}).find("\"mtp_modules\":1"), std::string::npos);
  }
}

TEST_F(GgufCommands, TheirTokenizerIsTheSame) {
  ok({"convert", "@hf", "--out", "@t.gguf"});
  const auto ids = [](const char* model) {
    return ok({"tokenizer", "encode", "--model", model, "--json", "the <｜User｜> other 12 sides"});
  };
  EXPECT_EQ(ids("@hf"), ids("@t.gguf"));
}

TEST_F(GgufCommands, Fp8GoesToAFolder) {
  ok({"quantize", "@hf", "--type", "fp8", "--out", "@fp8"});
  EXPECT_NE(ok({"inspect", "--json", "@fp8"}).find("\"F8_E4M3\":"), std::string::npos);
  EXPECT_TRUE(fs::exists(*dir_ / "fp8/tokenizer.json"));
  scores("@fp8");
  ok({"quantize", "@fp8", "--type", "q8_0", "--out", "@from-fp8.gguf"});
}

TEST_F(GgufCommands, AnImportanceMatrixChangesTheRounding) {
  const std::string line = ok({"imatrix", "--model", "@hf", "--data", "@text.txt", "--out", "@i.gguf", "--ctx", "64"});
  EXPECT_NE(line.find(" tensors from "), std::string::npos) << line;
  ok({"quantize", "@hf", "--type", "q4_k", "--imatrix", "@i.gguf", "--out", "@weighed.gguf"});
  ok({"quantize", "@hf", "--type", "q4_k", "--out", "@plain.gguf"});
  EXPECT_FALSE(read_file(*dir_ / "weighed.gguf") == read_file(*dir_ / "plain.gguf"));
  scores("@weighed.gguf");
  ok({"imatrix", "--model", "@plain.gguf", "--data", "@text.txt", "--out", "@j.gguf", "--ctx", "0"});
}

TEST_F(GgufCommands, MistakesAreNamed) {
  ok({"convert", "@hf", "--out", "@model.gguf"});
  write_file(*dir_ / "cut.gguf", read_file(*dir_ / "model.gguf").substr(0, 5000));
  const auto expect = [](const Words& words, const Words& parts) { expect_user_error(run(words), parts); };
  expect({"quantize", "@hf", "--out", "@x.gguf"}, {"--type is required"});
  expect({"quantize", "@hf", "--type", "q9", "--out", "@x.gguf"}, {"--type: expected f32, ", "found \"q9\""});
  expect({"quantize", "@hf", "--type", "q8_0", "--out", "@x"}, {"--out: expected a name that ends in .gguf"});
  expect({"quantize", "@hf", "--type", "fp8", "--out", "@x.gguf"}, {"--out: expected a folder"});
  expect({"quantize", "@hf", "--type", "q8_0", "--out", "@x.gguf", "--imatrix", "@model.gguf"},
         {"model.gguf: expected an importance matrix"});
  expect({"quantize", "@nowhere", "--type", "q8_0", "--out", "@x.gguf"}, {"nowhere: expected a checkpoint folder"});
  expect({"convert", "@model.gguf", "--out", "@hf"}, {"hf: expected a folder that does not exist or is empty"});
  expect({"convert", "@cut.gguf", "--out", "@x"}, {"cut.gguf: "});
  expect({"score", "--model", "@cut.gguf", "--text", "x"}, {"cut.gguf: "});
  expect({"score", "--model", "@text.txt", "--text", "x"}, {"text.txt: expected a checkpoint folder"});
  expect({"init", "--config", "@model.json", "--type", "q4_k", "--out", "@x"}, {"a name that ends in .gguf has more"});
  EXPECT_FALSE(fs::exists(*dir_ / "x.gguf"));
}

}  // namespace
}  // namespace sluice
