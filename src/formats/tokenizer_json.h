// tokenizer.json and tokenizer_config.json of byte-level BPE tokenizers (the Hugging Face form; specification 7.2):
// bytes <-> plain structs. What the tokens mean is src/tokenizer's business.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace sluice {

/// Ids are below this, so that a table over all ids stays small whatever a file says.
constexpr int64_t kMaxTokenizerIds = int64_t{1} << 22;

/// A token that is matched in the raw text, before pre-tokenisation.
struct AddedToken {
  int32_t id = 0;
  std::string content;       // raw UTF-8
  bool special = false;      // left out by decode(skip_special)
  bool normalized = false;   // matched after the tokens that are not
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // eats white space before it
  bool rstrip = false;       // eats white space after it
};

/// What a Split stage does with the matches of its pattern.
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

/// One stage of the pre-tokenizer; nested Sequences are flattened on reading.
struct PreTokenizerStage {
  enum class Kind { split, digits, byte_level } kind = Kind::split;
  std::string pattern;                               // split: the regex, or the string itself if `literal`
  bool literal = false;                              // split
  SplitBehavior behavior = SplitBehavior::isolated;  // split
  bool invert = false;                               // split: the pattern describes the gaps
  bool individual_digits = false;                    // digits: every digit alone, or runs of them
  bool add_prefix_space = false;                     // byte_level: a space before pieces that start with none
  bool use_regex = false;                            // byte_level: split with GPT-2's regex first
  bool operator==(const PreTokenizerStage&) const = default;
};

/// tokenizer.json. Under `merge_by_id`, of tokenizers that come in another file, there are no merges: any two tokens
/// merge whose bytes together are a token, the lowest id first.
struct TokenizerFile {
  std::vector<std::pair<std::string, int32_t>> vocab;       // model.vocab in the order of ids; byte-level symbols
  std::vector<std::pair<std::string, std::string>> merges;  // model.merges in the order of rank
  bool ignore_merges = false;                               // model: a piece that is a token stays whole
  bool merge_by_id = false;                                 // not in the file: see below
  std::vector<AddedToken> added_tokens;                     // in the order of ids
  std::vector<PreTokenizerStage> stages;                    // the last one is byte_level
  std::string post_processor = "null";                      // JSON text, kept as it is
};

/// tokenizer_config.json: the fields Sluice uses.
struct TokenizerConfig {
  std::optional<std::string> bos_token, eos_token, pad_token;
  bool add_bos_token = false;
  bool add_eos_token = false;
  std::string chat_template;  // Jinja text; of a list of templates the one named "default"
  std::string tokenizer_class = "LlamaTokenizerFast";
  std::optional<int64_t> model_max_length;
  std::vector<AddedToken> added_tokens;  // `added_tokens_decoder`, in the order of ids; for want of tokenizer.json
};

/// Reads tokenizer.json. Every id is unique and in [0, kMaxTokenizerIds) and every text is valid UTF-8; whether merges
/// name known tokens is not checked here. Throws Error "<name>: <field>: expected ..., found ..."; a normaliser that
/// does something, an unknown pre-tokenizer stage, decoder or model is an Error that names it.
/// `name` is the file's name in messages.
TokenizerFile parse_tokenizer_json(std::string_view json, const std::string& name);

/// The JSON text of `file` (not under merge_by_id), such that parse_tokenizer_json gives `file` back and the
/// `tokenizers` package loads it.
std::string format_tokenizer_json(const TokenizerFile& file);

/// The text of a tokenizer_config.json with `chat_template` where it has none, else as it is. Throws Error when it is
/// no JSON object.
std::string add_chat_template(const std::string& json, std::string_view chat_template, const std::string& name);

/// Reads tokenizer_config.json; tokens may be strings or objects with `content`. Throws Error as above.
TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& name);

/// The JSON text of `config`, without its added tokens.
std::string format_tokenizer_config(const TokenizerConfig& config);

/// Writes tokenizer.json and tokenizer_config.json to `folder` (made if missing), each atomically.
void save_tokenizer(const fs::path& folder, const TokenizerFile& file, const TokenizerConfig& config);

}  // namespace sluice
