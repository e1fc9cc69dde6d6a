// sluice bench draft.
#include "program.h"

namespace sluice {
namespace {

class BenchDraft : public testing::Test {
 protected:
  void init(const std::string& json, const Words& more = {}) const {
    write_file(dir_ / "model.json", json);
    Words words{"init", "--config", dir_ / "model.json", "--out", dir_ / "model"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome o = sluice(words);
    ASSERT_EQ(o.exit_code, 0) << o.err;
  }
  Outcome bench(const Words& more) const {
    Words words{"bench", "draft",  "--model",  dir_ / "model", "--texts",   "2", "--runs",
                "1",     "--json", "--tokens", "24",           "--threads", "1"};
    words.insert(words.end(), more.begin(), more.end());
    return sluice(words);
  }
  TempDir dir_;
};

TEST_F(BenchDraft, WithRandomPrompts) {
  init(model_json());
  const Outcome o = bench({"--temperature", "1"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  for (const char* part : {R"("temperature":1,)", R"("texts":2,)", R"("repeating":0,)", R"("acceptance":)",
                           R"("roof":)", R"("on":)", R"("auto":)", R"("gave_up":)"})
    EXPECT_NE(o.out.find(part), std::string::npos) << part << o.out;
}

TEST_F(BenchDraft, WithPiecesOfATextAndBothTemperatures) {
  write_file(dir_ / "text.txt", sample_text(20000));
  const Outcome t =
      sluice({"tokenizer", "train", "--data", dir_ / "text.txt", "--vocab-size", "300", "--out", dir_ / "tokenizer"});
  ASSERT_EQ(t.exit_code, 0) << t.err;
  init(model_json(), {"--tokenizer", dir_ / "tokenizer"});
  const Outcome o = bench({"--prompts", dir_ / "text.txt"});
  ASSERT_EQ(o.exit_code, 0) << o.err;
  const Words lines = lines_of(o.out);
  ASSERT_EQ(lines.size(), 2u) << o.out;
  EXPECT_NE(lines[0].find(R"("temperature":0,)"), std::string::npos) << o.out;
  EXPECT_NE(lines[1].find(R"("temperature":0.8,)"), std::string::npos) << o.out;
  write_file(dir_ / "short.txt", "a word");
  expect_user_error(bench({"--prompts", dir_ / "short.txt"}), {"short.txt: expected at least 64 tokens, found "});
}

TEST_F(BenchDraft, NeedsAnMtpModule) {
  std::string json = model_json();
  const std::string one = "\"num_nextn_predict_layers\": 1";
  json.replace(json.find(one), one.size(), "\"num_nextn_predict_layers\": 0");
  init(json);
  expect_user_error(bench({}), {"model: expected a model with an MTP module"});
}

}  // namespace
}  // namespace sluice
