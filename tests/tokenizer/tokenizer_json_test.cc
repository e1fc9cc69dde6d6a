#include "formats/tokenizer_json.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <tuple>

#include "tiny_tokenizer.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

Json tiny_json() { return Json::parse(format_tokenizer_json(tiny_file(300))); }

std::string error_for(const Json& json) {
  return error_of([&] { Tokenizer(parse_tokenizer_json(json.dump(), "f.json"), {}, "f.json"); });
}

auto fields(const AddedToken& t) {
  return std::tuple(t.id, t.content, t.special, t.normalized, t.single_word, t.lstrip, t.rstrip);
}
auto fields(const PreTokenizerStage& s) {
  return std::tuple(s.kind, s.pattern, s.literal, s.behavior, s.invert, s.individual_digits, s.add_prefix_space,
                    s.use_regex);
}

TEST(TokenizerJson, WritingAndReadingGivesTheSame) {
  TokenizerFile file = tiny_file(300);
  file.ignore_merges = true;
  file.added_tokens[1].lstrip = file.added_tokens[2].rstrip = file.added_tokens[3].single_word = true;
  PreTokenizerStage stage;
  stage.pattern = "\"\\\n\u2028";
  stage.literal = stage.invert = true;
  stage.behavior = SplitBehavior::merged_with_next;
  file.stages.insert(file.stages.begin(), stage);
  stage = {};
  stage.kind = PreTokenizerStage::Kind::digits;
  stage.individual_digits = true;
  file.stages.insert(file.stages.begin(), stage);
  file.stages.back().add_prefix_space = file.stages.back().use_regex = true;
  const TokenizerFile read = parse_tokenizer_json(format_tokenizer_json(file), "f.json");
  EXPECT_EQ(read.vocab, file.vocab);
  EXPECT_EQ(read.merges, file.merges);
  EXPECT_EQ(read.ignore_merges, true);
  EXPECT_EQ(Json::parse(read.post_processor), Json::parse(file.post_processor));
  ASSERT_EQ(read.added_tokens.size(), file.added_tokens.size());
  for (size_t i = 0; i < read.added_tokens.size(); ++i)
    EXPECT_EQ(fields(read.added_tokens[i]), fields(file.added_tokens[i]));
  ASSERT_EQ(read.stages.size(), file.stages.size());
  for (size_t i = 0; i < read.stages.size(); ++i) EXPECT_EQ(fields(read.stages[i]), fields(file.stages[i]));
}

TEST(TokenizerJson, MergesAsPairsAreTheSameAsStrings) {
  Json json = tiny_json();
  const auto expected = parse_tokenizer_json(json.dump(), "f.json").merges;
  for (Json& merge : json["model"]["merges"]) {
    const std::string text = merge;
    const size_t space = text.find(' ');
    merge = Json::array({text.substr(0, space), text.substr(space + 1)});
  }
  EXPECT_EQ(parse_tokenizer_json(json.dump(), "f.json").merges, expected);
  json["model"]["merges"][3] = "a b c";
  EXPECT_EQ(error_for(json), "f.json: model.merges[3]: expected \"a b\" or [\"a\", \"b\"], found \"a b c\"");
}

TEST(TokenizerJson, UnknownPartsAreNamed) {
  Json json = tiny_json();
  json["pre_tokenizer"]["pretokenizers"][0] = {{"type", "Metaspace"}};
  EXPECT_EQ(error_for(json),
            "f.json: pre_tokenizer.pretokenizers[0].type: expected Split, Digits, Sequence or ByteLevel, found "
            "\"Metaspace\"");
  json = tiny_json();
  json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Sideways";
  EXPECT_NE(error_for(json).find("found \"Sideways\""), std::string::npos);
  json = tiny_json();
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Regex", "(a"}};
  EXPECT_NE(error_for(json).find("f.json: pre_tokenizer stage 0: expected a regex, found: "), std::string::npos);
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Regex", "[a&&[b]]"}};
  EXPECT_NE(error_for(json).find("a class inside a class"), std::string::npos);
  json = tiny_json();
  json["pre_tokenizer"]["pretokenizers"].erase(3);
  EXPECT_NE(error_for(json).find("expected ByteLevel as the last stage"), std::string::npos);
  json = tiny_json();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  EXPECT_NE(error_for(json).find("normalizer.normalizers[0].type: expected an empty Sequence, found \"NFC\""),
            std::string::npos);
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array()}};
  EXPECT_EQ(error_for(json), "");
  json["decoder"] = {{"type", "WordPiece"}};
  EXPECT_NE(error_for(json).find("decoder.type: expected ByteLevel, found \"WordPiece\""), std::string::npos);
  json = tiny_json();
  json["model"]["type"] = "Unigram";
  EXPECT_EQ(error_for(json), "f.json: model.type: expected \"BPE\", found \"Unigram\"");
}

TEST(TokenizerJson, WrongIdsAreErrors) {
  Json json = tiny_json();
  json["model"]["vocab"]["!"] = 4;
  EXPECT_EQ(error_for(json), "f.json: model.vocab: expected unique ids, found 4 for \"!\" and \"\\\"\"");
  for (const Json& id :
       {Json(-1), Json(4194304), Json(1e30), Json(18446744073709551615ull), Json("7"), Json(nullptr)}) {
    json = tiny_json();
    json["model"]["vocab"]["!"] = id;
    EXPECT_EQ(error_for(json), "f.json: model.vocab.\"!\": expected an id in [0, 4194304), found " + id.dump());
  }
  json = tiny_json();
  json["added_tokens"][1]["id"] = 0;
  EXPECT_EQ(error_for(json), "f.json: added_tokens: expected unique ids, found 0 twice");
  json = tiny_json();
  json["added_tokens"][0]["id"] = 7;
  EXPECT_NE(error_for(json).find("found 7 in the vocabulary too"), std::string::npos);
  json = tiny_json();
  json["added_tokens"][0]["content"] = std::string(1025, 'x');
  EXPECT_NE(error_for(json).find("added_tokens[0].content: expected at most 1024 bytes"), std::string::npos);
}

TEST(TokenizerJson, MergesOfUnknownTokensAreErrors) {
  Json json = tiny_json();
  json["model"]["merges"][0] = "! zzz";
  EXPECT_EQ(error_for(json), "f.json: model.merges[0]: expected tokens of the vocabulary, found \"!zzz\"");
}

TEST(TokenizerJson, TruncatedFilesAreErrors) {
  const std::string text = format_tokenizer_json(tiny_file(280));
  for (size_t size = 0; size + 2 < text.size(); size += 37) {
    const std::string error = error_of([&] { parse_tokenizer_json(text.substr(0, size), "f.json"); });
    EXPECT_TRUE(error.starts_with("f.json: ")) << size << " " << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
  EXPECT_TRUE(error_of([] { parse_tokenizer_json(std::string(100000, '['), "f.json"); }).starts_with("f.json: "));
  EXPECT_TRUE(error_of([] { parse_tokenizer_json("[]", "f.json"); }).starts_with("f.json: "));
}

TEST(TokenizerJson, DamagedFilesNeverCrash) {
  const std::string text = format_tokenizer_json(tiny_file(280));
  for (uint32_t i = 0; i < 600; ++i) {
    std::string damaged = text;
    damaged[(i * 2654435761u) % text.size()] = static_cast<char>("\"{}[],:0x\\\xff"[i % 11]);
    error_of([&] {
      const Tokenizer tokenizer(parse_tokenizer_json(damaged, "f.json"));
      encode(tokenizer, "Any text, 床前 123.");
    });
  }
}

TEST(TokenizerConfigJson, TokensMayBeStringsOrObjects) {
  const TokenizerConfig config = parse_tokenizer_config(
      R"({"bos_token": {"content": "<b>", "lstrip": false}, "eos_token": "<e>", "pad_token": null, "add_bos_token": true,
          "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}],
          "model_max_length": 1000000000000000019884624838656})",
      "c.json");
  EXPECT_EQ(config.bos_token, "<b>");
  EXPECT_EQ(config.eos_token, "<e>");
  EXPECT_EQ(config.pad_token, std::nullopt);
  EXPECT_TRUE(config.add_bos_token);
  EXPECT_FALSE(config.add_eos_token);
  EXPECT_EQ(config.chat_template, "D");
  EXPECT_EQ(config.model_max_length, std::nullopt);
  EXPECT_EQ(error_of([] { parse_tokenizer_config(R"({"bos_token": 7})", "c.json"); }),
            "c.json: bos_token: expected a string, found 7");
}

TEST(TokenizerConfigJson, AChatTemplateIsAddedOnce) {
  EXPECT_EQ(parse_tokenizer_config(add_chat_template(R"({"bos_token": "b"})", "T", "c.json"), "c.json").chat_template,
            "T");
  const std::string own = R"({"chat_template": "own"})";
  EXPECT_EQ(add_chat_template(own, "T", "c.json"), own);
  EXPECT_EQ(error_of([] { add_chat_template("[]", "T", "c.json"); }), "c.json: expected an object, found []");
}

TEST(TokenizerConfigJson, SavedFolderLoads) {
  const fs::path folder = fs::temp_directory_path() / "sluice_tokenizer_test" / "folder";
  TokenizerConfig saved = trained_tokenizer_config();
  saved.chat_template = "{{ messages }}";
  save_tokenizer(folder, tiny_file(), saved);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  EXPECT_EQ(tokenizer.vocab_size(), 400);
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_EQ(encode(tokenizer, tiny_corpus()), encode(tiny_tokenizer(), tiny_corpus()));
  const TokenizerConfig config =
      parse_tokenizer_config(read_file(folder / "tokenizer_config.json"), "tokenizer_config.json");
  EXPECT_EQ(config.chat_template, "{{ messages }}");
  fs::remove(folder / "tokenizer_config.json");
  EXPECT_EQ(Tokenizer::load(folder).bos_id(), Tokenizer::kNone);
  fs::remove_all(folder.parent_path());
  EXPECT_NE(error_of([&] { Tokenizer::load(folder); }).find("tokenizer.json"), std::string::npos);
}

}  // namespace
}  // namespace sluice
