#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pre_tokenizer.h"

namespace sluice {
namespace {

/// A token as it may stand in a one-line message.
std::string shown(std::string_view token) { return fmt::format("{:?}", token.substr(0, 60)); }

/// A bound on the pairs that merge.
size_t checked_merges(const TokenizerFile& file, const std::string& name) {
  const size_t merges = file.merge_by_id ? file.vocab.size() : file.merges.size();
  if (merges > MergeTable::kMaxMerges)
    fail("{}: {}: expected at most {}, found {}", name, file.merge_by_id ? "tokens" : "model.merges",
         MergeTable::kMaxMerges, merges);
  if (!file.merge_by_id) return merges;
  size_t pairs = 0;
  for (const auto& [token, id] : file.vocab) pairs += token.size();
  return pairs;
}

/// Ids of pieces seen before: short pieces with few ids, one slot for each hash, the newer one wins.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 31, kMaxIds = 7;
  struct Key {
    std::array<uint64_t, 4> words{};  // the bytes, then zeros; the last byte is the length
    bool operator==(const Key&) const = default;
  };
  struct Slot {
    Key key;
    int32_t count = 0;
    std::array<int32_t, kMaxIds> ids{};
  };

  static Key key_of(std::string_view piece) {
    std::array<char, 32> bytes{};
    std::memcpy(bytes.data(), piece.data(), piece.size());
    bytes[kMaxBytes] = static_cast<char>(piece.size());
    Key key;
    std::memcpy(key.words.data(), bytes.data(), bytes.size());
    return key;
  }
  /// Where `key` is or would be; no piece has length 0, so an empty slot equals no key.
  Slot& slot(const Key& key) {
    uint64_t hash = 0;
    for (const uint64_t word : key.words) hash = (hash ^ word) * 0x9e3779b97f4a7c15ull, hash ^= hash >> 32;
    return slots_[hash % kSlots];
  }

 private:
  static constexpr size_t kSlots = 1 << 14;
  std::vector<Slot> slots_ = std::vector<Slot>(kSlots);
};

/// What one call of encode() borrows.
struct Scratch {
  RegexScratch regex;
  BpeScratch bpe;
  PieceCache cache;
  std::vector<int32_t> ids;
};

}  // namespace

static_assert(kMaxTokenizerIds <= MergeTable::kMaxIds);

struct Tokenizer::Impl {
  PreTokenizer pre_tokenizer;
  AddedTokenMatcher raw_tokens, normalized_tokens;
  MergeTable merges;
  std::string bytes;              // of all tokens, one after the other
  std::vector<uint32_t> offsets;  // by id: where its bytes begin; one more at the end
  std::vector<bool> special;      // by id
  std::array<int32_t, 256> byte_id;
  std::unordered_map<std::string, int32_t> added;   // added tokens by text
  std::unordered_map<std::string, int32_t> pieces;  // with ignore_merges: tokens by bytes
  int32_t bos = kNone, eos = kNone, pad = kNone;
  bool add_bos = false;
  std::string name;

  std::mutex mutex;
  std::vector<std::unique_ptr<Scratch>> idle;

  Impl(const TokenizerFile& file, const TokenizerConfig& config, const std::string& name_);
  void add_tokens(const TokenizerFile& file);
  void add_merges(const TokenizerFile& file);
  void add_merges_by_id(const TokenizerFile& file);
  void encode_plain(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;
  void merge_piece(std::string_view piece, Scratch& scratch) const;
  int32_t id_of_byte(char byte) const;
};

Tokenizer::Impl::Impl(const TokenizerFile& file, const TokenizerConfig& config, const std::string& name_)
    : pre_tokenizer(file.stages, name_),
      raw_tokens(file.added_tokens, false),
      normalized_tokens(file.added_tokens, true),
      merges(checked_merges(file, name_)),
      name(name_) {
  byte_id.fill(kNone);
  add_tokens(file);
  add_merges(file);
  const auto configured = [&](const char* field, const std::optional<std::string>& token) {
    if (!token) return kNone;
    const auto it = added.find(*token);
    if (it == added.end())
      fail("{}: expected the {} of tokenizer_config.json among the added tokens, found no {}", name, field,
           shown(*token));
    return it->second;
  };
  bos = configured("bos_token", config.bos_token);
  eos = configured("eos_token", config.eos_token);
  pad = configured("pad_token", config.pad_token);
  add_bos = config.add_bos_token && bos != kNone;
}

/// Fills the tables by id. An added token may stand in the vocabulary too, under the same id.
void Tokenizer::Impl::add_tokens(const TokenizerFile& file) {
  struct Entry {
    int32_t id;
    std::string bytes;
  };
  std::vector<Entry> entries;
  std::unordered_map<int32_t, std::string_view> in_vocab;
  for (const auto& [token, id] : file.vocab) {
    const std::optional<std::string> plain = bytes_of_symbols(token);
    if (plain && plain->size() == 1) byte_id[static_cast<unsigned char>((*plain)[0])] = id;
    if (plain && (file.ignore_merges || file.merge_by_id)) pieces.emplace(*plain, id);
    entries.push_back({id, plain.value_or(token)});
    in_vocab.emplace(id, token);
  }
  for (const AddedToken& token : file.added_tokens) {
    const auto it = in_vocab.find(token.id);
    if (it == in_vocab.end()) {
      entries.push_back({token.id, token.content});
    } else if (it->second != token.content) {
      fail("{}: added_tokens: expected a free id for {}, found {} in the vocabulary too", name, shown(token.content),
           token.id);
    }
    added.emplace(token.content, token.id);
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
  for (const Entry& entry : entries) {
    offsets.resize(static_cast<size_t>(entry.id) + 1, static_cast<uint32_t>(bytes.size()));
    bytes += entry.bytes;
    if (bytes.size() > INT32_MAX) fail("{}: expected less than 2 GB of tokens, found more", name);
  }
  special.resize(offsets.size());
  offsets.push_back(static_cast<uint32_t>(bytes.size()));
  for (const AddedToken& token : file.added_tokens) special[static_cast<size_t>(token.id)] = token.special;
}

/// Every cut of a token into two others merges to it, at the rank of its id.
void Tokenizer::Impl::add_merges_by_id(const TokenizerFile& file) {
  for (const auto& [token, id] : file.vocab) {
    const std::string whole = bytes_of_symbols(token).value_or("");
    bool is_new = true;
    for (size_t cut = 1; cut < whole.size(); ++cut) {
      const auto left = pieces.find(whole.substr(0, cut)), right = pieces.find(whole.substr(cut));
      if (left == pieces.end() || right == pieces.end()) continue;
      if (is_new)
        merges.insert(left->second, right->second, id);
      else
        merges.insert_again(left->second, right->second);
      is_new = false;
    }
  }
}

void Tokenizer::Impl::add_merges(const TokenizerFile& file) {
  if (file.merge_by_id) return add_merges_by_id(file);
  std::unordered_map<std::string_view, int32_t> ids;
  for (const auto& [token, id] : file.vocab) ids.emplace(token, id);
  const auto known = [&](std::string_view token, size_t rank) {
    const auto it = ids.find(token);
    if (it == ids.end())
      fail("{}: model.merges[{}]: expected tokens of the vocabulary, found {}", name, rank, shown(token));
    return it->second;
  };
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    const int32_t id = known(left + right, rank);
    merges.insert(known(left, rank), known(right, rank), id);
  }
}

int32_t Tokenizer::Impl::id_of_byte(char byte) const {
  const int32_t id = byte_id[static_cast<unsigned char>(byte)];
  if (id == kNone)
    fail("{}: expected a token for every byte of the text, found none for 0x{:02x}", name,
         static_cast<unsigned char>(byte));
  return id;
}

void Tokenizer::Impl::merge_piece(std::string_view piece, Scratch& scratch) const {
  scratch.ids.clear();
  if (!pieces.empty()) {
    const auto it = pieces.find(std::string(piece));
    if (it != pieces.end()) {
      scratch.ids.push_back(it->second);
      return;
    }
  }
  for (const char byte : piece) scratch.ids.push_back(id_of_byte(byte));
  bpe_merge(merges, scratch.ids, scratch.bpe);
}

void Tokenizer::Impl::encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (piece.size() > PieceCache::kMaxBytes) {
    merge_piece(piece, scratch);
    out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
    return;
  }
  const PieceCache::Key key = PieceCache::key_of(piece);
  PieceCache::Slot& slot = scratch.cache.slot(key);
  if (slot.key == key) {
    out.insert(out.end(), slot.ids.begin(), slot.ids.begin() + slot.count);
    return;
  }
  merge_piece(piece, scratch);
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
  if (scratch.ids.size() > PieceCache::kMaxIds) return;
  slot.key = key;
  slot.count = static_cast<int32_t>(scratch.ids.size());
  std::copy(scratch.ids.begin(), scratch.ids.end(), slot.ids.begin());
}

/// Text without added tokens. A byte outside valid UTF-8 is a piece of its own.
void Tokenizer::Impl::encode_plain(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text);
    pre_tokenizer.split(text.substr(0, valid), scratch.regex,
                        [&](std::string_view piece) { encode_piece(piece, scratch, out); });
    text.remove_prefix(valid);
    if (text.empty()) break;
    out.push_back(id_of_byte(text.front()));
    text.remove_prefix(1);
  }
}

Tokenizer::Tokenizer(const TokenizerFile& file, const TokenizerConfig& config, const std::string& name)
    : impl_(std::make_unique<Impl>(file, config, name)) {}
Tokenizer::Tokenizer(const TokenizerData& data) : Tokenizer(data.file, data.config, data.name) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&& other) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&& other) noexcept = default;

Tokenizer Tokenizer::load(const fs::path& folder) { return Tokenizer(load_tokenizer(folder)); }

void Tokenizer::encode(std::string_view text, bool parse_special, std::vector<int32_t>& out) const {
  std::unique_ptr<Scratch> scratch;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->idle.empty()) {
      scratch = std::move(impl_->idle.back());
      impl_->idle.pop_back();
    }
  }
  if (!scratch) scratch = std::make_unique<Scratch>();
  const auto plain = [&](std::string_view part) { impl_->encode_plain(part, *scratch, out); };
  const auto token = [&](int32_t id) { out.push_back(id); };
  if (parse_special) {
    const auto rest = [&](std::string_view part) {
      impl_->normalized_tokens.split(part, scratch->regex, plain, token);
    };
    impl_->raw_tokens.split(text, scratch->regex, rest, token);
  } else {
    plain(text);
  }
  const std::lock_guard lock(impl_->mutex);
  impl_->idle.push_back(std::move(scratch));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  for (const int32_t id : ids)
    if (!skip_special || !is_special(id)) out += token_bytes(id);
  return out;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const size_t i = static_cast<size_t>(id);
  return std::string_view(impl_->bytes).substr(impl_->offsets[i], impl_->offsets[i + 1] - impl_->offsets[i]);
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->special[static_cast<size_t>(id)];
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->special.size()); }

size_t Tokenizer::added_token_at(std::string_view text, size_t at) const {
  return std::max(impl_->raw_tokens.length_at(text, at), impl_->normalized_tokens.length_at(text, at));
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  const auto it = impl_->added.find(std::string(token));
  return it == impl_->added.end() ? std::nullopt : std::optional(it->second);
}

int32_t Tokenizer::bos_id() const { return impl_->bos; }
int32_t Tokenizer::eos_id() const { return impl_->eos; }
int32_t Tokenizer::pad_id() const { return impl_->pad; }
bool Tokenizer::add_bos() const { return impl_->add_bos; }

}  // namespace sluice
