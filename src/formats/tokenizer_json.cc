#include "formats/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

constexpr size_t kMaxAddedTokenBytes = 1024;

constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kBehaviors = {{
    {"Isolated", SplitBehavior::isolated},
    {"Removed", SplitBehavior::removed},
    {"MergedWithPrevious", SplitBehavior::merged_with_previous},
    {"MergedWithNext", SplitBehavior::merged_with_next},
    {"Contiguous", SplitBehavior::contiguous},
}};

/// A JSON object with its place in the file, for messages. Missing and null fields are the same.
struct Node {
  const Json& json;
  const std::string& name;
  std::string path;

  std::string at(std::string_view key) const { return path.empty() ? std::string(key) : path + "." + std::string(key); }
  const Json* find(const char* key) const {
    const auto it = json.find(key);
    return it == json.end() || it->is_null() ? nullptr : &*it;
  }
  [[noreturn]] void wrong(const char* key, std::string_view expected) const {
    const Json* value = find(key);
    fail("{}: {}: expected {}, found {}", name, at(key), expected, value ? json_excerpt(*value) : "nothing");
  }
  Node object(const char* key) const {
    const Json* value = find(key);
    if (!value || !value->is_object()) wrong(key, "an object");
    return {*value, name, at(key)};
  }
  const Json& array(const char* key) const {
    const Json* value = find(key);
    if (!value || !value->is_array()) wrong(key, "an array");
    return *value;
  }
  std::string string(const char* key) const {
    const Json* value = find(key);
    if (!value || !value->is_string()) wrong(key, "a string");
    return value->get<std::string>();
  }
  bool boolean(const char* key, bool otherwise) const {
    const Json* value = find(key);
    if (!value) return otherwise;
    if (!value->is_boolean()) wrong(key, "true or false");
    return value->get<bool>();
  }
  /// Element i of an array under `key`, which must be an object.
  Node element(const char* key, const Json& list, size_t i) const {
    std::string where = fmt::format("{}[{}]", at(key), i);
    if (!list[i].is_object()) fail("{}: {}: expected an object, found {}", name, where, json_excerpt(list[i]));
    return {list[i], name, std::move(where)};
  }
};

int32_t token_id(const Json& value, const std::string& name, std::string_view where) {
  const bool ok = value.is_number_unsigned() && value.get<uint64_t>() < static_cast<uint64_t>(kMaxTokenizerIds);
  if (!ok) fail("{}: {}: expected an id in [0, {}), found {}", name, where, kMaxTokenizerIds, json_excerpt(value));
  return value.get<int32_t>();
}

void parse_vocab(TokenizerFile& file, const Node& model) {
  const Node vocab = model.object("vocab");
  file.vocab.reserve(vocab.json.size());
  for (const auto& [token, id] : vocab.json.items())
    file.vocab.emplace_back(token, token_id(id, model.name, "model.vocab." + json_excerpt(token)));
  std::sort(file.vocab.begin(), file.vocab.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second < b.second : a.first < b.first;
  });
  for (size_t i = 1; i < file.vocab.size(); ++i) {
    const auto &a = file.vocab[i - 1], &b = file.vocab[i];
    if (a.second == b.second)
      fail("{}: model.vocab: expected unique ids, found {} for {} and {}", model.name, a.second, json_excerpt(a.first),
           json_excerpt(b.first));
  }
}

/// "a b" (older files) or ["a", "b"].
std::pair<std::string, std::string> parse_merge(const Json& merge, const std::string& name, size_t i) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  fail("{}: model.merges[{}]: expected \"a b\" or [\"a\", \"b\"], found {}", name, i, json_excerpt(merge));
}

void parse_model(TokenizerFile& file, const Node& model) {
  if (model.find("type") && model.string("type") != "BPE") model.wrong("type", "\"BPE\"");
  if (const Json* dropout = model.find("dropout"); dropout && (!dropout->is_number() || dropout->get<double>() != 0))
    model.wrong("dropout", "no dropout");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (model.find(key) && !model.string(key).empty()) model.wrong(key, "none (byte-level BPE)");
  file.ignore_merges = model.boolean("ignore_merges", false);
  parse_vocab(file, model);
  const Json& merges = model.array("merges");
  file.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) file.merges.push_back(parse_merge(merges[i], model.name, i));
}

AddedToken parse_added_token(const Node& node, int32_t id) {
  AddedToken token;
  token.id = id;
  token.content = node.string("content");
  if (token.content.size() > kMaxAddedTokenBytes)
    node.wrong("content", fmt::format("at most {} bytes", kMaxAddedTokenBytes));
  token.special = node.boolean("special", false);
  token.normalized = node.boolean("normalized", !token.special);
  token.single_word = node.boolean("single_word", false);
  token.lstrip = node.boolean("lstrip", false);
  token.rstrip = node.boolean("rstrip", false);
  return token;
}

void parse_added_tokens(TokenizerFile& file, const Node& root) {
  if (!root.find("added_tokens")) return;
  const Json& list = root.array("added_tokens");
  for (size_t i = 0; i < list.size(); ++i) {
    const Node node = root.element("added_tokens", list, i);
    if (!node.find("id")) node.wrong("id", "an id");
    AddedToken token = parse_added_token(node, token_id(*node.find("id"), node.name, node.at("id")));
    file.added_tokens.push_back(std::move(token));
  }
  auto& tokens = file.added_tokens;
  std::stable_sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (size_t i = 1; i < tokens.size(); ++i)
    if (tokens[i - 1].id == tokens[i].id)
      fail("{}: added_tokens: expected unique ids, found {} twice", root.name, tokens[i].id);
}

PreTokenizerStage parse_split(const Node& node) {
  PreTokenizerStage stage;
  const Json* pattern = node.find("pattern");
  if (pattern && pattern->is_object() && pattern->size() == 1 && pattern->begin()->is_string() &&
      (pattern->contains("Regex") || pattern->contains("String"))) {
    stage.literal = pattern->contains("String");
    stage.pattern = pattern->begin()->get<std::string>();
  } else {
    node.wrong("pattern", "{\"Regex\": ...} or {\"String\": ...}");
  }
  const std::string behavior = node.string("behavior");
  const auto* found =
      std::find_if(kBehaviors.begin(), kBehaviors.end(), [&](const auto& entry) { return entry.first == behavior; });
  if (found == kBehaviors.end())
    node.wrong("behavior", "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
  stage.behavior = found->second;
  stage.invert = node.boolean("invert", false);
  return stage;
}

void parse_stage(TokenizerFile& file, const Node& node) {
  const std::string type = node.string("type");
  if (type == "Sequence") {
    const Json& list = node.array("pretokenizers");
    for (size_t i = 0; i < list.size(); ++i) parse_stage(file, node.element("pretokenizers", list, i));
    return;
  }
  if (!file.stages.empty() && file.stages.back().kind == PreTokenizerStage::Kind::byte_level)
    node.wrong("type", "no stage after ByteLevel");
  PreTokenizerStage stage;
  if (type == "Split") {
    stage = parse_split(node);
  } else if (type == "Digits") {
    stage.kind = PreTokenizerStage::Kind::digits;
    stage.individual_digits = node.boolean("individual_digits", false);
  } else if (type == "ByteLevel") {
    stage.kind = PreTokenizerStage::Kind::byte_level;
    stage.add_prefix_space = node.boolean("add_prefix_space", true);
    stage.use_regex = node.boolean("use_regex", true);
  } else {
    node.wrong("type", "Split, Digits, Sequence or ByteLevel");
  }
  file.stages.push_back(std::move(stage));
}

/// `key` holds nothing, or (nested) Sequences with elements under `list_key`, all of which are of the type `allowed`.
void check_steps(const Node& node, const char* list_key, std::string_view allowed, std::string_view expected) {
  const std::string type = node.string("type");
  if (type == allowed) return;
  if (type != "Sequence") node.wrong("type", expected);
  const Json& list = node.array(list_key);
  for (size_t i = 0; i < list.size(); ++i) check_steps(node.element(list_key, list, i), list_key, allowed, expected);
}

std::string quoted(const std::string& text) { return Json(text).dump(); }

Json format_stage(const PreTokenizerStage& stage) {
  switch (stage.kind) {
    case PreTokenizerStage::Kind::digits:
      return {{"type", "Digits"}, {"individual_digits", stage.individual_digits}};
    case PreTokenizerStage::Kind::byte_level:
      return {{"type", "ByteLevel"},
              {"add_prefix_space", stage.add_prefix_space},
              {"trim_offsets", true},
              {"use_regex", stage.use_regex}};
    case PreTokenizerStage::Kind::split:
      break;
  }
  std::string_view behavior;
  for (const auto& [text, value] : kBehaviors)
    if (value == stage.behavior) behavior = text;
  return {{"type", "Split"},
          {"pattern", {{stage.literal ? "String" : "Regex", stage.pattern}}},
          {"behavior", behavior},
          {"invert", stage.invert}};
}

Json format_added_token(const AddedToken& token) {
  return {{"id", token.id},          {"content", token.content}, {"single_word", token.single_word},
          {"lstrip", token.lstrip},  {"rstrip", token.rstrip},   {"normalized", token.normalized},
          {"special", token.special}};
}

/// A token of tokenizer_config.json: a string, or an object as AddedToken writes it.
std::optional<std::string> parse_config_token(const Node& root, const char* key) {
  const Json* value = root.find(key);
  if (!value) return std::nullopt;
  return value->is_object() ? root.object(key).string("content") : root.string(key);
}

/// An object of tokens by id.
std::vector<AddedToken> parse_added_tokens_decoder(const Node& root) {
  constexpr const char* kKey = "added_tokens_decoder";
  std::vector<AddedToken> tokens;
  if (!root.find(kKey)) return tokens;
  const Node decoder = root.object(kKey);
  for (const auto& [key, value] : decoder.json.items()) {
    int32_t id = -1;
    const auto [rest, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || rest != key.data() + key.size() || id < 0 || id >= kMaxTokenizerIds)
      fail("{}: {}: expected ids in [0, {}), found {}", root.name, kKey, kMaxTokenizerIds, json_excerpt(key));
    tokens.push_back(parse_added_token(decoder.object(key.c_str()), id));
  }
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (size_t i = 1; i < tokens.size(); ++i)
    if (tokens[i].id == tokens[i - 1].id)
      fail("{}: {}: expected unique ids, found {} twice", root.name, kKey, tokens[i].id);
  return tokens;
}

std::string parse_chat_template(const Node& root) {
  const Json* value = root.find("chat_template");
  if (!value) return "";
  if (!value->is_array()) return root.string("chat_template");
  for (size_t i = 0; i < value->size(); ++i) {
    const Node entry = root.element("chat_template", *value, i);
    if (entry.string("name") == "default") return entry.string("template");
  }
  return "";
}

}  // namespace

TokenizerFile parse_tokenizer_json(std::string_view json, const std::string& name) {
  const Json document = parse_json_object(json, name);
  const Node root{document, name, ""};
  TokenizerFile file;
  if (root.find("normalizer")) check_steps(root.object("normalizer"), "normalizers", "", "an empty Sequence");
  if (root.find("decoder")) check_steps(root.object("decoder"), "decoders", "ByteLevel", "ByteLevel");
  parse_stage(file, root.object("pre_tokenizer"));
  if (file.stages.empty() || file.stages.back().kind != PreTokenizerStage::Kind::byte_level)
    fail("{}: pre_tokenizer: expected ByteLevel as the last stage, found another", name);
  parse_model(file, root.object("model"));
  parse_added_tokens(file, root);
  if (const Json* post_processor = root.find("post_processor")) file.post_processor = post_processor->dump();
  return file;
}

std::string format_tokenizer_json(const TokenizerFile& file) {
  check(!file.merge_by_id, "format_tokenizer_json: expected merges");
  Json stages = Json::array();
  for (const PreTokenizerStage& stage : file.stages) stages.push_back(format_stage(stage));
  const Json pre_tokenizer = {{"type", "Sequence"}, {"pretokenizers", stages}};
  const Json decoder = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n    ";
  for (const AddedToken& token : file.added_tokens) {
    out += separator + format_added_token(token).dump();
    separator = ",\n    ";
  }
  out += fmt::format(
      "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {},\n  \"post_processor\": {},\n  \"decoder\": {},\n"
      "  \"model\": {{\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
      "    \"byte_fallback\": false,\n    \"ignore_merges\": {},\n    \"vocab\": {{",
      pre_tokenizer.dump(), file.post_processor, decoder.dump(), file.ignore_merges);
  separator = "\n      ";
  for (const auto& [token, id] : file.vocab) {
    out += fmt::format("{}{}: {}", separator, quoted(token), id);
    separator = ",\n      ";
  }
  out += "\n    },\n    \"merges\": [";
  separator = "\n      ";
  for (const auto& [left, right] : file.merges) {
    out += separator + quoted(left + " " + right);
    separator = ",\n      ";
  }
  return out + "\n    ]\n  }\n}\n";
}

TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& name) {
  const Json document = parse_json_object(json, name);
  const Node root{document, name, ""};
  TokenizerConfig config;
  config.bos_token = parse_config_token(root, "bos_token");
  config.eos_token = parse_config_token(root, "eos_token");
  config.pad_token = parse_config_token(root, "pad_token");
  config.add_bos_token = root.boolean("add_bos_token", false);
  config.add_eos_token = root.boolean("add_eos_token", false);
  config.chat_template = parse_chat_template(root);
  config.added_tokens = parse_added_tokens_decoder(root);
  if (root.find("tokenizer_class")) config.tokenizer_class = root.string("tokenizer_class");
  // Files without a limit hold 1e30 here, which is no integer.
  if (const Json* length = root.find("model_max_length"); length && length->is_number_integer())
    config.model_max_length = length->get<int64_t>();
  return config;
}

std::string format_tokenizer_config(const TokenizerConfig& config) {
  const auto token = [](const std::optional<std::string>& text) { return text ? Json(*text) : Json(nullptr); };
  OrderedJson json = {{"add_bos_token", config.add_bos_token}, {"add_eos_token", config.add_eos_token},
                      {"bos_token", token(config.bos_token)},  {"eos_token", token(config.eos_token)},
                      {"pad_token", token(config.pad_token)},  {"unk_token", nullptr},
                      {"clean_up_tokenization_spaces", false}, {"tokenizer_class", config.tokenizer_class}};
  if (config.model_max_length) json["model_max_length"] = *config.model_max_length;
  if (!config.chat_template.empty()) json["chat_template"] = config.chat_template;
  return json.dump(2) + "\n";
}

std::string add_chat_template(const std::string& json, std::string_view chat_template, const std::string& name) {
  OrderedJson config = parse_ordered_json(json, name);
  if (!config.is_object()) fail("{}: expected an object, found {}", name, json_excerpt(config));
  if (config.contains("chat_template")) return json;
  config["chat_template"] = chat_template;
  return config.dump(2) + "\n";
}

void save_tokenizer(const fs::path& folder, const TokenizerFile& file, const TokenizerConfig& config) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: expected a folder that can be made, found: {}", folder.string(), error.message());
  write_file(folder / "tokenizer.json", format_tokenizer_json(file));
  write_file(folder / "tokenizer_config.json", format_tokenizer_config(config));
}

}  // namespace sluice
