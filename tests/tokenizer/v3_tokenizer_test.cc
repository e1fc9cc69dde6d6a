// The published DeepSeek-V3 tokenizer, which fetch_v3_tokenizer.sh installs: SLUICE_V3_TOKENIZER names its folder.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tiny_tokenizer.h"
#include "tokenizer/named_stages.h"

namespace sluice {
namespace {

class V3Tokenizer : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("SLUICE_V3_TOKENIZER");
    if (!folder || !fs::exists(fs::path(folder) / "tokenizer.json"))
      GTEST_SKIP() << "the published tokenizer is not installed (tests/tokenizer/fetch_v3_tokenizer.sh)";
    folder_ = folder;
  }
  fs::path folder_;
};

TEST_F(V3Tokenizer, Cases) {
  const Tokenizer tokenizer = Tokenizer::load(folder_);
  EXPECT_EQ(tokenizer.vocab_size(), 128815);
  const auto file = nlohmann::json::parse(std::ifstream(SLUICE_SOURCE_DIR "/tests/tokenizer/tokenizer_cases.json"));
  ASSERT_EQ(file["cases"].size(), 30u);
  for (const auto& test : file["cases"]) {
    const std::string text = test["text"];
    const std::vector<int32_t> ids = encode(tokenizer, text);
    EXPECT_EQ(ids, test["ids"].get<std::vector<int32_t>>()) << test["name"];
    EXPECT_EQ(tokenizer.decode(ids, false), text) << test["name"];
  }
}

TEST_F(V3Tokenizer, ItsPreTokenizerHasAName) {
  EXPECT_EQ(name_of_stages(load_tokenizer(folder_).file.stages), "deepseek-v3");
}

TEST_F(V3Tokenizer, VectorsOfTheSpecification) {
  const Tokenizer tokenizer = Tokenizer::load(folder_);
  const std::vector<std::pair<std::string, std::vector<int32_t>>> vectors = {
      {"Hello!", {19923, 3}},
      {"Hello, world!", {19923, 14, 2058, 3}},
      {" hello  world\n\n", {44388, 223, 2058, 271}},
      {"1234567890", {6895, 18009, 25744, 18}},
      {"3.14159", {21, 16, 9926, 3318}},
      {"def fib(n):\n    return n if n < 2 else fib(n-1) + fib(n-2)\n",
       {3465, 10150, 3913, 3395, 361, 1354, 313, 855,   313,  818, 223, 20,
        3006, 10150, 3913, 15,   19,  11,   940, 10150, 3913, 15,  20,  682}},
      {"你好，世界！", {30594, 303, 3427, 1175}},
      {"毕老师1+1=2", {5464, 5008, 19, 13, 19, 31, 20}},
      {"Ünïcödé naïve café", {52526, 80, 16709, 69, 54879, 619, 112752, 57664}},
      {"a\r\n\tb", {67, 204, 201, 37496}},
      {"https://a.b/c?d=e&f", {5395, 2272, 67, 6229, 5252, 33, 70, 91343, 8, 72}},
      {"don't I'll", {20385, 1664, 342, 5922}},
      {"    indented", {361, 1126, 19686}},
      {"привет мир", {17050, 8919, 74779}},
      {"カタカナとひらがな", {15961, 11767, 15961, 27071, 2495, 40259, 4970, 2936, 2942}},
      {"👍🏽 ok", {92526, 40965, 124, 9109}},
      {"<｜User｜>Hi<｜Assistant｜>", {128803, 23166, 128804}},
  };
  for (const auto& [text, ids] : vectors) EXPECT_EQ(encode(tokenizer, text), ids) << text;
}

TEST_F(V3Tokenizer, SpecialTokensAndConfig) {
  const Tokenizer tokenizer = Tokenizer::load(folder_);
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.pad_id(), 1);
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_EQ(tokenizer.id_of("<｜fim▁hole｜>"), 128800);
  EXPECT_EQ(tokenizer.id_of("<|EOT|>"), 128805);
  EXPECT_TRUE(tokenizer.is_special(128805));
  EXPECT_FALSE(tokenizer.is_special(128803));
  EXPECT_EQ(tokenizer.token_bytes(128814), "<｜tool▁sep｜>");
}

TEST_F(V3Tokenizer, WritingItBackKeepsTheIds) {
  const TokenizerFile file = parse_tokenizer_json(read_file(folder_ / "tokenizer.json"), "tokenizer.json");
  const TokenizerFile again = parse_tokenizer_json(format_tokenizer_json(file), "again.json");
  EXPECT_EQ(again.vocab, file.vocab);
  EXPECT_EQ(again.merges, file.merges);
  EXPECT_EQ(again.added_tokens.size(), 818u);
}

}  // namespace
}  // namespace sluice
