#include "convert/gguf_tokenizer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/named_stages.h"
#include "tokenizer/tiktoken.h"

namespace sluice {
namespace {

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

constexpr const char* kNoModel = "none";
constexpr const char *kModel = "tokenizer.ggml.model", *kPre = "tokenizer.ggml.pre";
constexpr const char *kTokens = "tokenizer.ggml.tokens", *kTypes = "tokenizer.ggml.token_type";
constexpr const char *kMerges = "tokenizer.ggml.merges", *kTemplate = "tokenizer.chat_template";
constexpr const char *kAddBos = "tokenizer.ggml.add_bos_token", *kAddEos = "tokenizer.ggml.add_eos_token";

constexpr const char* kEndOfTurn = "tokenizer.ggml.eot_token_id";

/// A token that the model treats apart: its key, and where the configuration names it.
struct Role {
  const char* key;
  std::optional<std::string> TokenizerConfig::*token;
};
constexpr std::array<Role, 3> kRoles = {{{"tokenizer.ggml.bos_token_id", &TokenizerConfig::bos_token},
                                         {"tokenizer.ggml.eos_token_id", &TokenizerConfig::eos_token},
                                         {"tokenizer.ggml.padding_token_id", &TokenizerConfig::pad_token}}};

std::string checked_text(std::string_view text, const std::string& file, const char* key, size_t i) {
  if (utf8_valid_prefix(text) != text.size()) fail("{}: {}[{}]: expected UTF-8, found other bytes", file, key, i);
  return std::string(text);
}

std::vector<int64_t> read_types(const GgufMetadata& metadata, size_t count) {
  const auto types = metadata.find<std::vector<int64_t>>(kTypes);
  if (!types) return std::vector<int64_t>(count, kNormal);
  if (types->size() != count)
    fail("{}: {}: expected {} values, one for each token, found {}", metadata.file(), kTypes, count, types->size());
  for (size_t i = 0; i < count; ++i)
    if ((*types)[i] < kNormal || (*types)[i] > kByte)
      fail("{}: {}[{}]: expected a type from {} to {}, found {}", metadata.file(), kTypes, i, +kNormal, +kByte,
           (*types)[i]);
  return *types;
}

/// The tokens of the roles are special whatever their type says.
void read_roles(const GgufMetadata& metadata, const std::vector<std::string_view>& tokens, TokenizerConfig& config,
                std::vector<int64_t>& types) {
  for (const auto& [key, token] : kRoles) {
    const auto id = metadata.find<int64_t>(key);
    if (!id) continue;
    if (*id < 0 || *id >= static_cast<int64_t>(tokens.size()))
      fail("{}: {}: expected an id below {}, the number of tokens, found {}", metadata.file(), key, tokens.size(), *id);
    const auto i = static_cast<size_t>(*id);
    if (types[i] != kUserDefined) types[i] = kControl;
    config.*token = checked_text(tokens[i], metadata.file(), kTokens, i);
  }
}

void read_tokens(const GgufMetadata& metadata, TokenizerData& data) {
  const auto tokens = metadata.get<std::vector<std::string_view>>(kTokens);
  if (tokens.size() > static_cast<size_t>(kMaxTokenizerIds))
    fail("{}: {}: expected at most {} tokens, found {}", metadata.file(), kTokens, kMaxTokenizerIds, tokens.size());
  std::vector<int64_t> types = read_types(metadata, tokens.size());
  read_roles(metadata, tokens, data.config, types);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == kUnused) continue;
    std::string text = checked_text(tokens[i], metadata.file(), kTokens, i);
    const auto id = static_cast<int32_t>(i);
    if (types[i] == kNormal || types[i] == kByte) {
      data.file.vocab.emplace_back(std::move(text), id);
    } else {
      AddedToken& added = data.file.added_tokens.emplace_back();
      added.id = id;
      added.content = std::move(text);
      added.special = types[i] != kUserDefined;
    }
  }
}

void read_merges(const GgufMetadata& metadata, TokenizerFile& file) {
  const auto merges = metadata.get<std::vector<std::string_view>>(kMerges);
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string text = checked_text(merges[i], metadata.file(), kMerges, i);
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
      fail("{}: {}[{}]: expected \"a b\", found {:?}", metadata.file(), kMerges, i, text.substr(0, 60));
    file.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
}

/// The id of a token that tokenizer_config.json names.
std::optional<int64_t> role_id(const TokenizerData& data, const Role& role) {
  const std::optional<std::string>& token = data.config.*role.token;
  if (!token) return std::nullopt;
  for (const AddedToken& added : data.file.added_tokens)
    if (added.content == *token) return added.id;
  fail("{}: expected {:?} of tokenizer_config.json among the added tokens, found no such token", data.name, *token);
}

/// Where the tokenizer names no token, the model's configuration may. A second end token is that of a turn.
void add_roles(GgufMetadataBuilder& metadata, const std::optional<TokenizerData>& data, const HfConfig& config) {
  const auto first = [](const std::vector<int64_t>& ids) { return ids.empty() ? std::nullopt : std::optional(ids[0]); };
  const std::array<std::optional<int64_t>, 3> configured{config.bos_token_id, first(config.eos_token_id),
                                                         config.pad_token_id};
  std::optional<int64_t> eos;
  for (size_t i = 0; i < kRoles.size(); ++i) {
    std::optional<int64_t> id = data ? role_id(*data, kRoles[i]) : std::nullopt;
    if (!id) id = configured[i];
    if (kRoles[i].token == &TokenizerConfig::eos_token) eos = id;
    if (id && *id < config.vocab_size) metadata.add(kRoles[i].key, static_cast<uint32_t>(*id));
  }
  for (const int64_t id : config.eos_token_id)
    if (id != eos && id < config.vocab_size) return void(metadata.add(kEndOfTurn, static_cast<uint32_t>(id)));
}

struct TokenRow {
  std::string text;
  int32_t type;
};

/// By id, the gaps filled.
std::vector<TokenRow> token_rows(const TokenizerData& data, int64_t vocab_size) {
  std::vector<TokenRow> rows;
  for (int64_t id = 0; id < vocab_size; ++id) rows.push_back({fmt::format("[PAD{}]", id), kUnused});
  const auto row = [&](int32_t id) -> TokenRow& {
    if (id >= vocab_size) fail("{}: expected ids below vocab_size {}, found {}", data.name, vocab_size, id);
    return rows[static_cast<size_t>(id)];
  };
  for (const auto& [text, id] : data.file.vocab) row(id) = {text, kNormal};
  for (const AddedToken& token : data.file.added_tokens) {
    if (token.lstrip || token.rstrip || token.single_word)
      fail("{}: added_tokens: expected none with lstrip, rstrip or single_word for a GGUF file, found {:?}", data.name,
           token.content);
    row(token.id) = {token.content, token.special ? kControl : kUserDefined};
  }
  return rows;
}

}  // namespace

std::optional<TokenizerData> read_gguf_tokenizer(const GgufMetadata& metadata) {
  const auto model = metadata.find<std::string_view>(kModel);
  if (!model || *model == kNoModel || *model == "no_vocab") return std::nullopt;
  if (*model != "gpt2")
    fail("{}: {}: expected \"gpt2\" (byte-level BPE), found {:?}", metadata.file(), kModel, model->substr(0, 60));
  TokenizerData data;
  data.name = metadata.file();
  const auto pre = metadata.get<std::string_view>(kPre);
  auto stages = named_stages(pre);
  if (!stages)
    fail("{}: {}: expected a pre-tokenizer that is known ({}), found {:?}", metadata.file(), kPre, known_stage_names(),
         pre.substr(0, 60));
  data.file.stages = *std::move(stages);
  read_tokens(metadata, data);
  read_merges(metadata, data.file);
  data.config.add_bos_token = metadata.find<bool>(kAddBos).value_or(false);
  data.config.add_eos_token = metadata.find<bool>(kAddEos).value_or(false);
  data.config.chat_template =
      checked_text(metadata.find<std::string_view>(kTemplate).value_or(""), data.name, kTemplate, 0);
  return data;
}

void add_gguf_tokenizer(GgufMetadataBuilder& metadata, const std::optional<TokenizerData>& data,
                        const HfConfig& config) {
  add_roles(metadata, data, config);
  if (!data) {
    metadata.add(kModel, kNoModel);
    return;
  }
  const auto pre = name_of_stages(data->file.stages);
  if (!pre)
    fail("{}: pre_tokenizer: expected one that GGUF files have a name for ({}), found another", data->name,
         known_stage_names());
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  for (TokenRow& row : token_rows(*data, config.vocab_size)) {
    tokens.push_back(std::move(row.text));
    types.push_back(row.type);
  }
  for (const auto& [left, right] : data->file.merge_by_id ? merges_of_ranks(data->file) : data->file.merges)
    merges.push_back(left + " " + right);
  metadata.add(kModel, "gpt2").add(kPre, *pre).add(kTokens, tokens).add(kTypes, types).add(kMerges, merges);
  metadata.add(kAddBos, data->config.add_bos_token).add(kAddEos, data->config.add_eos_token);
  if (!data->config.chat_template.empty()) metadata.add(kTemplate, data->config.chat_template);
}

}  // namespace sluice
