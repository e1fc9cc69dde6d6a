#include "data/token_set.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "base/error.h"
#include "base/rng.h"
#include "data/shard.h"
#include "formats/checksums.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

struct TokenSet::Segment {
  std::optional<MappedFile> file;  // none in memory
  int64_t first = 0, count = 0;    // tokens [first, first + count) of the set
  int width = 4;                   // bytes of a token
  const void* tokens = nullptr;
  std::span<const uint64_t> documents;
  std::span<const uint8_t> loss_bits;
  uint32_t tokens_crc = 0;
};

void TokenBuffer::append(std::span<const int32_t> ids, bool in_loss) {
  const size_t old = tokens.size(), now = old + ids.size();
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  if (in_loss && loss_bits.empty()) return;
  if (loss_bits.empty()) {
    loss_bits.assign((old + 7) / 8, 0xff);
    if (old % 8) loss_bits.back() = static_cast<uint8_t>((1u << old % 8) - 1);
  }
  loss_bits.resize((now + 7) / 8, 0);
  if (!in_loss) return;
  for (size_t i = old; i < now; ++i) loss_bits[i / 8] = static_cast<uint8_t>(loss_bits[i / 8] | 1u << i % 8);
}

TokenSet::TokenSet(TokenBuffer buffer, const TokenSetInfo& info, std::string name)
    : name_(std::move(name)), info_(info), buffer_(std::move(buffer)) {
  if (buffer_.tokens.empty()) fail("{}: expected text, found none", name_);
  info_.text_bytes = buffer_.text_bytes;
  Segment segment;
  segment.count = static_cast<int64_t>(buffer_.tokens.size());
  segment.tokens = buffer_.tokens.data();
  segment.documents = buffer_.documents;
  segment.loss_bits = buffer_.loss_bits;
  add_segment(std::move(segment));
  const uint32_t crcs[2] = {crc32_update(0, std::as_bytes(std::span(buffer_.tokens))),
                            tables_crc(buffer_.documents, buffer_.loss_bits)};
  fingerprint_ = crc32_update(0, std::as_bytes(std::span(crcs)));
}

TokenSet::~TokenSet() = default;
TokenSet::TokenSet(TokenSet&&) noexcept = default;

bool TokenSet::exists(const fs::path& folder, const std::string& split) {
  std::error_code ignored;
  return fs::is_regular_file(folder / shard_name(split, 0), ignored);
}

TokenSet TokenSet::open(const fs::path& folder, const std::string& split) {
  TokenSet set;
  set.name_ = folder.string();
  for (bool last = false; !last;) {
    const auto index = static_cast<int64_t>(set.segments_.size());
    Segment segment;
    segment.file.emplace(folder / shard_name(split, index));
    const ShardView view = parse_shard(*segment.file);
    const ShardHeader& h = view.header;
    const std::string name = segment.file->path().string();
    if (h.index != index) fail("{}: index: expected {}, found {}", name, index, h.index);
    if (h.previous_crc != set.fingerprint_) {
      fail("{}: previous shard: expected the header checksum {:08x}, found {:08x} (shards of different packings)", name,
           set.fingerprint_, h.previous_crc);
    }
    if (index > 0 && static_cast<int64_t>(h.vocab) != set.info_.vocab) {
      fail("{}: vocabulary: expected {} as in the shard before, found {}", name, set.info_.vocab, h.vocab);
    }
    segment.count = static_cast<int64_t>(h.tokens);
    segment.width = static_cast<int>(h.token_bytes);
    segment.tokens = view.tokens.data();
    segment.documents = view.documents;
    segment.loss_bits = view.loss_bits;
    segment.tokens_crc = h.tokens_crc;
    set.info_.vocab = static_cast<int64_t>(h.vocab);
    set.info_.tokenizer = h.tokenizer;
    set.info_.text_bytes += static_cast<int64_t>(h.text_bytes);
    set.fingerprint_ = h.crc;  // covers the shards before by its chain of checksums
    set.add_segment(std::move(segment));
    last = h.last;
  }
  return set;
}

void TokenSet::add_segment(Segment segment) {
  const auto& documents = segment.documents;
  segment.first = tokens_;
  tokens_ += segment.count;
  const auto isolated =
      std::count_if(documents.begin(), documents.end(), [](uint64_t d) { return d & kIsolatedDocument; });
  documents_ += static_cast<int64_t>(documents.size());
  isolated_ += isolated;
  segments_.push_back(std::move(segment));
}

int64_t TokenSet::target_tokens() const {
  int64_t n = 0;
  for (const Segment& s : segments_) {
    if (s.loss_bits.empty()) n += s.count;
    for (const uint8_t byte : s.loss_bits) n += std::popcount(byte);
  }
  return n;
}

int64_t TokenSet::shards() const { return buffer_.tokens.empty() ? static_cast<int64_t>(segments_.size()) : 0; }
int TokenSet::token_bytes() const { return segments_.front().width; }

namespace {

/// Widens `out.size()` ids and returns the largest.
template <class T>
uint32_t widen(const void* tokens, int64_t begin, std::span<int32_t> out) {
  const T* from = static_cast<const T*>(tokens) + begin;
  uint32_t largest = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    largest = std::max(largest, static_cast<uint32_t>(from[i]));
    out[i] = static_cast<int32_t>(from[i]);
  }
  return largest;
}

}  // namespace

void TokenSet::read(int64_t begin, const TokenWindow& out) const {
  const auto n = static_cast<int64_t>(out.ids.size());
  check(begin >= 0 && n <= tokens_ && begin <= tokens_ - n, "TokenSet::read: the range is outside the set");
  read_first(begin, out.first);
  for (int64_t done = 0; done < n;) {
    const Segment& s = segment_of(begin + done);
    const int64_t from = begin + done - s.first, count = std::min(n - done, s.count - from);
    const auto ids = out.ids.subspan(static_cast<size_t>(done), static_cast<size_t>(count));
    const uint32_t largest = s.width == 2 ? widen<uint16_t>(s.tokens, from, ids) : widen<uint32_t>(s.tokens, from, ids);
    if (largest >= info_.vocab) {
      fail("{}: tokens {} to {}: expected ids below {}, found {}", s.file ? s.file->path().string() : name_, from,
           from + count - 1, info_.vocab, largest);
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto bit = static_cast<size_t>(from + i);
      out.loss[static_cast<size_t>(done + i)] = s.loss_bits.empty() ? 1 : s.loss_bits[bit / 8] >> bit % 8 & 1;
    }
    done += count;
  }
}

const TokenSet::Segment& TokenSet::segment_of(int64_t token) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), token,
                                      [](int64_t t, const Segment& s) { return t < s.first; });
  return *std::prev(after);
}

void TokenSet::read_first(int64_t begin, std::span<int32_t> first) const {
  std::fill(first.begin(), first.end(), 0);
  const int64_t end = begin + static_cast<int64_t>(first.size());
  if (isolated_ == 0 || first.empty()) return;
  const Segment* s = &segment_of(begin);
  const auto before = [](uint64_t token, uint64_t document) { return token < (document & ~kIsolatedDocument); };
  // The first document that begins after token `begin`, and whether the one around `begin` is isolated.
  auto next =
      std::upper_bound(s->documents.begin(), s->documents.end(), static_cast<uint64_t>(begin - s->first), before);
  // Tokens before a shard's first document go on from an earlier shard, so they are not isolated.
  bool isolated = next != s->documents.begin() && (*std::prev(next) & kIsolatedDocument) != 0;
  for (const Segment* last = &segments_.back();; next = s->documents.begin()) {
    for (; next != s->documents.end(); ++next) {
      const int64_t start = s->first + static_cast<int64_t>(*next & ~kIsolatedDocument);
      if (start >= end) return;
      const bool was_isolated = isolated;
      isolated = (*next & kIsolatedDocument) != 0;
      if (isolated || was_isolated) {
        std::fill(first.begin() + (start - begin), first.end(), static_cast<int32_t>(start - begin));
      }
    }
    if (s == last) return;
    ++s;
  }
}

void TokenSet::verify() const {
  for (const Segment& s : segments_) {
    if (!s.file) continue;
    const std::string name = s.file->path().string();
    const auto bytes = static_cast<size_t>((s.count * s.width + 7) / 8 * 8);
    const uint32_t crc = crc32_update(0, {static_cast<const std::byte*>(s.tokens), bytes});
    if (crc != s.tokens_crc) fail("{}: token checksum: expected {:08x}, found {:08x}", name, s.tokens_crc, crc);
  }
  constexpr int64_t kBlock = 1 << 16;
  std::vector<int32_t> ids(kBlock), first(kBlock);
  std::vector<uint8_t> loss(kBlock);
  for (int64_t at = 0; at < tokens_; at += kBlock) {
    const auto n = static_cast<size_t>(std::min(kBlock, tokens_ - at));
    read(at, {std::span(ids).first(n), std::span(first).first(n), std::span(loss).first(n)});
  }
}

TokenRange hold_out(TokenRange& range, double fraction) {
  if (!(fraction > 0 && fraction < 1)) fail("held-out fraction: expected a number between 0 and 1, found {}", fraction);
  if (range.size() < 4)
    fail("{}: expected at least 4 tokens to hold some out, found {}", range.set->name(), range.size());
  const auto wanted = static_cast<int64_t>(static_cast<double>(range.size()) * fraction);
  TokenRange held = range;
  held.begin = range.end = range.end - std::clamp(wanted, int64_t{2}, range.size() - 2);
  return held;
}

uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer) {
  uint64_t hash = mix64(static_cast<uint64_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    hash = mix64(hash ^ crc32_update(0, std::as_bytes(std::span(bytes))));
  }
  return hash;
}

std::vector<int32_t> token_byte_lengths(const Tokenizer& tokenizer) {
  std::vector<int32_t> lengths(static_cast<size_t>(tokenizer.vocab_size()), 0);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id))
      lengths[static_cast<size_t>(id)] = static_cast<int32_t>(tokenizer.token_bytes(id).size());
  }
  return lengths;
}

}  // namespace sluice
