#include "convert/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include "../base/temp_dir.h"
#include "../tokenizer/tiny_tokenizer.h"
#include "formats/gguf.h"
#include "tokenizer/tiktoken.h"

namespace sluice {
namespace {

TokenizerData tiny_data() {
  TokenizerData data{tiny_file(), trained_tokenizer_config(), "tokenizer.json"};
  data.config.chat_template = "{{ messages }}";
  return data;
}

HfConfig config_of(int64_t vocab_size) {
  HfConfig c;
  c.vocab_size = vocab_size;
  return c;
}

class GgufTokenizer : public testing::Test {
 protected:
  /// A file with this metadata.
  GgufFile file(const GgufMetadataBuilder& metadata) const {
    GgufWriter writer(dir_ / "t.gguf", metadata, {});
    writer.commit();
    return GgufFile(dir_ / "t.gguf");
  }
  std::string read_error(const GgufMetadataBuilder& metadata) const {
    return error_of([&] { read_gguf_tokenizer(file(metadata).metadata()); });
  }
  TempDir dir_;
};

/// Keys of a tokenizer of three tokens; each may be replaced.
struct Keys {
  std::string pre = "deepseek-v3", model = "gpt2";
  std::vector<std::string> tokens{"a", "b", "ab"}, merges{"a b"};
  std::vector<int32_t> types{1, 1, 1};
  std::optional<uint32_t> bos = {};

  GgufMetadataBuilder build() const {
    GgufMetadataBuilder m;
    m.add("tokenizer.ggml.model", model).add("tokenizer.ggml.pre", pre).add("tokenizer.ggml.tokens", tokens);
    m.add("tokenizer.ggml.token_type", types).add("tokenizer.ggml.merges", merges);
    if (bos) m.add("tokenizer.ggml.bos_token_id", *bos);
    return m;
  }
};

TEST_F(GgufTokenizer, SurvivesTheRoundTrip) {
  const TokenizerData data = tiny_data();
  GgufMetadataBuilder metadata;
  add_gguf_tokenizer(metadata, data, config_of(450));
  const GgufFile gguf = file(metadata);
  const auto back = read_gguf_tokenizer(gguf.metadata());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->config.chat_template, data.config.chat_template);
  EXPECT_EQ(back->config.bos_token, data.config.bos_token);
  EXPECT_EQ(back->config.eos_token, data.config.eos_token);
  EXPECT_EQ(back->config.add_bos_token, data.config.add_bos_token);
  EXPECT_EQ(back->file.merges, data.file.merges);
  EXPECT_EQ(gguf.metadata().get<std::vector<std::string_view>>("tokenizer.ggml.tokens")[449], "[PAD449]");

  const Tokenizer before(data), after(*back);
  EXPECT_EQ(before.vocab_size(), after.vocab_size());
  const std::string text = tiny_corpus() + "<｜User｜>Hi<｜Assistant｜><｜end▁of▁sentence｜>\xff" + "12345 [PAD449]";
  for (const bool special : {false, true}) EXPECT_EQ(encode(before, text, special), encode(after, text, special));
  for (int32_t id = 0; id < before.vocab_size(); ++id) {
    EXPECT_EQ(before.token_bytes(id), after.token_bytes(id)) << id;
    EXPECT_EQ(before.is_special(id), after.is_special(id)) << id;
  }
}

TEST_F(GgufTokenizer, RanksBecomeMerges) {
  std::vector<std::pair<std::string, int32_t>> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(std::string(1, static_cast<char>(byte)), byte);
  for (const char* token : {"th", "the", " the", "er", "你"}) tokens.emplace_back(token, tokens.size());
  const TokenizerData data{tiktoken_file(tokens, {}), {}, "tiktoken.model"};
  GgufMetadataBuilder metadata;
  add_gguf_tokenizer(metadata, data, config_of(300));
  const GgufFile gguf = file(metadata);
  EXPECT_EQ(gguf.metadata().get<std::string_view>("tokenizer.ggml.pre"), "kimi-k2");
  const Tokenizer before(data), after(read_gguf_tokenizer(gguf.metadata()).value());
  for (const char* text : {"the other there", "你好", " the  the"})
    EXPECT_EQ(encode(before, text), encode(after, text));
}

TEST_F(GgufTokenizer, NoTokenizerIsNone) {
  EXPECT_FALSE(read_gguf_tokenizer(file({}).metadata()));
  GgufMetadataBuilder metadata;
  HfConfig config = config_of(10);
  config.bos_token_id = 3;
  config.eos_token_id = {4, 5};
  add_gguf_tokenizer(metadata, std::nullopt, config);
  const GgufFile gguf = file(metadata);
  EXPECT_FALSE(read_gguf_tokenizer(gguf.metadata()));
  EXPECT_EQ(gguf.metadata().get<int64_t>("tokenizer.ggml.bos_token_id"), 3);
  EXPECT_EQ(gguf.metadata().get<int64_t>("tokenizer.ggml.eot_token_id"), 5);
}

TEST_F(GgufTokenizer, NamesWhatIsWrongInAFile) {
  const auto expect = [&](const Keys& keys, const char* key, const char* found) {
    const std::string error = read_error(keys.build());
    EXPECT_NE(error.find(key), std::string::npos) << error;
    EXPECT_NE(error.find(found), std::string::npos) << error;
  };
  EXPECT_EQ(read_error(Keys().build()), "");
  expect({.pre = "llama-bpe"}, "tokenizer.ggml.pre", "\"llama-bpe\"");
  expect({.model = "llama"}, "tokenizer.ggml.model", "\"llama\"");
  expect({.tokens = {"a", "b\xff", "ab"}}, "tokenizer.ggml.tokens[1]", "UTF-8");
  expect({.merges = {"ab"}}, "tokenizer.ggml.merges[0]", "\"ab\"");
  expect({.merges = {"a b c"}}, "tokenizer.ggml.merges[0]", "\"a b c\"");
  expect({.types = {1, 1}}, "tokenizer.ggml.token_type", "found 2");
  expect({.types = {1, 1, 9}}, "tokenizer.ggml.token_type[2]", "found 9");
  expect({.bos = 3}, "tokenizer.ggml.bos_token_id", "found 3");
}

TEST_F(GgufTokenizer, RefusesWhatAFileCannotSay) {
  const auto error = [](const TokenizerData& data, int64_t vocab_size) {
    GgufMetadataBuilder metadata;
    return error_of([&] { add_gguf_tokenizer(metadata, data, config_of(vocab_size)); });
  };
  TokenizerData data = tiny_data();
  EXPECT_NE(error(data, 200).find("below vocab_size 200"), std::string::npos);
  data.file.stages[0].pattern = "x";
  EXPECT_NE(error(data, 450).find("pre_tokenizer"), std::string::npos);
  data = tiny_data();
  data.file.added_tokens[0].lstrip = true;
  EXPECT_NE(error(data, 450).find("lstrip"), std::string::npos);
  data = tiny_data();
  data.config.bos_token = "<none>";
  EXPECT_NE(error(data, 450).find("\"<none>\""), std::string::npos);
}

}  // namespace
}  // namespace sluice
