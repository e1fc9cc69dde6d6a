// sluice compare, and with it how close the engine's products are to those of the dequantised weights.
#include "program.h"

namespace sluice {
namespace {

/// A model trained for a moment: the logits of random weights lie too close together for their order to mean much.
class Compare : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    // A real text: in one of random words many tokens are equally probable, and their order means nothing.
    const std::string austen = read_file(fs::path(SLUICE_SOURCE_DIR) / "data/demo/austen.txt");
    write_file(path("text.txt"), austen.substr(0, 300000));
    write_file(path("held-out.txt"), austen.substr(400000, 4000));
    std::string json = model_json();
    const std::string narrow = "\"hidden_size\": 16";
    json.replace(json.find(narrow), narrow.size(), "\"hidden_size\": 256");  // a block of the k-quants
    write_file(path("model.json"), json);
    const Outcome o = sluice({"train", "--data", path("text.txt"), "--model", path("model.json"), "--out", path("run"),
                              "steps=60", "lr=3e-3", "seq_len=64", "batch_size=8", "vocab_size=300"});
    ASSERT_EQ(o.exit_code, 0) << o.err;
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static std::string path(const std::string& name) { return (*dir_ / name).string(); }
  static Outcome compare(const std::string& model, const std::string& reference, const std::string& text) {
    return sluice({"compare", "--model", path(model), "--reference", path(reference), "--data", path(text), "--json"});
  }
  static void quantize(const std::string& model, const std::string& type, const std::string& out) {
    const Outcome o = sluice({"quantize", path(model), "--type", type, "--out", path(out)});
    ASSERT_EQ(o.exit_code, 0) << o.err;
  }
  static double field(const Outcome& o, const std::string& name) {
    EXPECT_EQ(o.exit_code, 0) << o.err;
    const size_t at = o.out.find("\"" + name + "\":");
    EXPECT_NE(at, std::string::npos) << name << o.out;
    return at == std::string::npos ? -1 : std::stod(o.out.substr(at + name.size() + 3));
  }
  static TempDir* dir_;
};

TempDir* Compare::dir_ = nullptr;

TEST_F(Compare, AModelIsItself) {
  const Outcome o = compare("run", "run", "held-out.txt");
  for (const char* name : {"kl", "nmse", "nmse_where_experts_agree"}) EXPECT_EQ(field(o, name), 0) << name;
  for (const char* name : {"same_top", "experts_agree"}) EXPECT_EQ(field(o, name), 1) << name;
  EXPECT_GT(field(o, "tokens"), 2000);
  const Outcome scored = sluice({"score", "--model", path("run"), "--file", path("held-out.txt"), "--json"});
  for (const char* name : {"perplexity", "reference_perplexity"})
    EXPECT_NEAR(field(o, name), field(scored, "perplexity"), 1e-4 * field(scored, "perplexity"));
}

TEST_F(Compare, QuantisedWeightsMultiplyAsTheirValues) {
  for (const std::string type : {"bf16", "fp8", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "iq4_nl", "q3_k", "q2_k"}) {
    const std::string model = type == "fp8" ? type : type + ".gguf";
    quantize("run", type, model);
    quantize(model, "f32", "values.gguf");
    const Outcome o = compare(model, "values.gguf", "held-out.txt");
    EXPECT_LE(field(o, "nmse_where_experts_agree"), 1e-3) << type;
    EXPECT_LE(field(o, "kl"), 2e-3) << type;
    EXPECT_GE(field(o, "same_top"), .98) << type;
    EXPECT_GE(field(o, "experts_agree"), .9) << type;
  }
}

TEST_F(Compare, FewBitsAreFarFromTheModel) {
  quantize("run", "q2_k", "few.gguf");
  const Outcome o = compare("few.gguf", "run", "held-out.txt");
  EXPECT_GT(field(o, "kl"), 1e-3);
  EXPECT_GT(field(o, "nmse"), 1e-3);
  EXPECT_LT(field(o, "same_top"), 1);
  EXPECT_LT(field(o, "experts_agree"), 1);
  EXPECT_GT(field(o, "perplexity"), field(o, "reference_perplexity"));
}

TEST_F(Compare, MistakesAreNamed) {
  write_file(path("empty.txt"), "");
  expect_user_error(compare("run", "run", "empty.txt"), {"empty.txt: expected at least 2 tokens, found 1"});
  expect_user_error(compare("run", "nowhere", "held-out.txt"), {"nowhere: expected a checkpoint folder"});
  std::string json = model_json();
  json.replace(json.find(": 300"), 5, ": 310");
  write_file(path("other.json"), json);
  ASSERT_EQ(sluice({"init", "--config", path("other.json"), "--out", path("other")}).exit_code, 0);
  expect_user_error(compare("run", "other", "held-out.txt"),
                    {"--reference: expected a vocabulary of 300", "found 310"});
}

}  // namespace
}  // namespace sluice
