// Byte-level BPE tokenizer (specification 7.2), from any tokenizer.json or tiktoken.model of this kind.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/tokenizer_json.h"

namespace sluice {

/// What a checkpoint says about its tokenizer.
struct TokenizerData {
  TokenizerFile file;
  TokenizerConfig config;
  std::string name;  // of the file, for messages
};

/// Whether load_tokenizer() finds something.
bool has_tokenizer(const fs::path& folder);

/// Reads tokenizer.json, or else tiktoken.model, and, where it exists, tokenizer_config.json in `folder`. Throws Error
/// naming file and field.
TokenizerData load_tokenizer(const fs::path& folder);

/// Text <-> token ids. Immutable; every const method may be called from several threads at once (each call to encode()
/// borrows a scratch space with its own cache). Any bytes survive encode + decode: a byte that is not part of valid
/// UTF-8 becomes the token of that byte.
class Tokenizer {
 public:
  /// Id of a token that the model does not have.
  static constexpr int32_t kNone = -1;

  /// Throws Error when merges name unknown tokens, a regex does not compile, or a configured token does not exist.
  /// `name` is the file's name in messages.
  explicit Tokenizer(const TokenizerFile& file, const TokenizerConfig& config = {},
                     const std::string& name = "tokenizer.json");
  ~Tokenizer();
  Tokenizer(Tokenizer&& other) noexcept;
  Tokenizer& operator=(Tokenizer&& other) noexcept;

  explicit Tokenizer(const TokenizerData& data);

  /// The tokenizer of load_tokenizer(folder).
  static Tokenizer load(const fs::path& folder);

  /// Appends the ids of `text` to `out`. Added tokens (`<｜User｜>` ...) are recognised in the text only if
  /// `parse_special`; otherwise they are ordinary text, so that untrusted text cannot forge them. No bos or eos is
  /// added: that is the caller's choice, see add_bos(). Throws Error when a byte has no token in the vocabulary or a
  /// regex runs out of its match limit.
  void encode(std::string_view text, bool parse_special, std::vector<int32_t>& out) const;

  /// Bytes of the longest added token that stands in `text` at `at`; 0: none begins there.
  size_t added_token_at(std::string_view text, size_t at) const;

  /// The bytes of `ids` one after the other; not necessarily valid UTF-8. Ids without a token give nothing.
  /// `skip_special` leaves out tokens whose `special` flag is set.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  /// The raw bytes of one token, for incremental detokenising and grammars: part of a character is possible. Empty for
  /// ids without a token. Owned by the tokenizer.
  std::string_view token_bytes(int32_t id) const;

  /// Whether decode(skip_special) leaves the token out.
  bool is_special(int32_t id) const;

  /// The largest id + 1, of vocabulary and added tokens. The model's vocabulary may be padded beyond it: ids from here
  /// on have no token and are never to be sampled.
  int32_t vocab_size() const;

  /// The id of an added token given by its text.
  std::optional<int32_t> id_of(std::string_view token) const;

  /// Ids of the tokens that tokenizer_config.json names, or kNone.
  int32_t bos_id() const;
  int32_t eos_id() const;
  int32_t pad_id() const;
  /// Whether a sequence is to start with bos_id() (`add_bos_token`); false where there is no bos.
  bool add_bos() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
