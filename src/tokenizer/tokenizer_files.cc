// The files of a checkpoint folder that describe its tokenizer.
#include "formats/tiktoken.h"
#include "tokenizer/tiktoken.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

constexpr const char *kJson = "tokenizer.json", *kTiktoken = "tiktoken.model", *kConfig = "tokenizer_config.json";

}  // namespace

bool has_tokenizer(const fs::path& folder) { return fs::exists(folder / kJson) || fs::exists(folder / kTiktoken); }

TokenizerData load_tokenizer(const fs::path& folder) {
  const bool is_json = fs::exists(folder / kJson) || !fs::exists(folder / kTiktoken);
  const fs::path path = folder / (is_json ? kJson : kTiktoken), config_path = folder / kConfig;
  TokenizerData data;
  data.name = path.string();
  if (fs::exists(config_path)) data.config = parse_tokenizer_config(read_file(config_path), config_path.string());
  if (is_json)
    data.file = parse_tokenizer_json(read_file(path), path.string());
  else
    data.file = tiktoken_file(parse_tiktoken(read_file(path), path.string()), data.config.added_tokens);
  return data;
}

}  // namespace sluice
