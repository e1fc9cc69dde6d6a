#include "data/shard.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "formats/checksums.h"

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are mapped as they are: little-endian");

constexpr char kMagic[] = "SLUICEDT";
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 80, kCrcOffset = 76;
constexpr uint32_t kFlagLossMask = 1, kFlagLast = 2;

using HeaderBytes = std::array<std::byte, kHeaderBytes>;

template <class T>
void put(HeaderBytes& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

template <class T>
T get(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

HeaderBytes encode_header(ShardHeader& h) {
  HeaderBytes bytes{};
  std::memcpy(bytes.data(), kMagic, 8);
  put(bytes, 8, kVersion);
  put(bytes, 12, h.token_bytes);
  put(bytes, 16, h.vocab);
  put(bytes, 24, h.tokens);
  put(bytes, 32, h.documents);
  put(bytes, 40, h.text_bytes);
  put(bytes, 48, (h.has_loss_mask ? kFlagLossMask : 0) | (h.last ? kFlagLast : 0));
  put(bytes, 52, h.index);
  put(bytes, 56, h.tokenizer);
  put(bytes, 64, h.previous_crc);
  put(bytes, 68, h.tokens_crc);
  put(bytes, 72, h.tables_crc);
  h.crc = crc32_update(0, std::span(bytes).first(kCrcOffset));
  put(bytes, kCrcOffset, h.crc);
  return bytes;
}

ShardHeader decode_header(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kHeaderBytes) {
    fail("{}: header: expected {} bytes, found a file of {}", name, kHeaderBytes, bytes.size());
  }
  if (std::memcmp(bytes.data(), kMagic, 8) != 0) fail("{}: magic: expected {}, found other bytes", name, kMagic);
  if (const auto v = get<uint32_t>(bytes, 8); v != kVersion) {
    fail("{}: version: expected {}, found {}", name, kVersion, v);
  }
  ShardHeader h;
  h.crc = get<uint32_t>(bytes, kCrcOffset);
  if (const uint32_t crc = crc32_update(0, bytes.first(kCrcOffset)); crc != h.crc) {
    fail("{}: header checksum: expected {:08x}, found {:08x}", name, h.crc, crc);
  }
  h.token_bytes = get<uint32_t>(bytes, 12);
  h.vocab = get<uint64_t>(bytes, 16);
  h.tokens = get<uint64_t>(bytes, 24);
  h.documents = get<uint64_t>(bytes, 32);
  h.text_bytes = get<uint64_t>(bytes, 40);
  const auto flags = get<uint32_t>(bytes, 48);
  h.has_loss_mask = flags & kFlagLossMask;
  h.last = flags & kFlagLast;
  h.index = get<uint32_t>(bytes, 52);
  h.tokenizer = get<uint64_t>(bytes, 56);
  h.previous_crc = get<uint32_t>(bytes, 64);
  h.tokens_crc = get<uint32_t>(bytes, 68);
  h.tables_crc = get<uint32_t>(bytes, 72);
  if (flags & ~(kFlagLossMask | kFlagLast)) fail("{}: flags: expected 0 to 3, found {}", name, flags);
  if (h.token_bytes != 2 && h.token_bytes != 4) fail("{}: token bytes: expected 2 or 4, found {}", name, h.token_bytes);
  const uint64_t most = h.token_bytes == 2 ? uint64_t{1} << 16 : uint64_t{1} << 31;
  if (h.vocab < 1 || h.vocab > most) fail("{}: vocabulary: expected 1 to {}, found {}", name, most, h.vocab);
  if (h.text_bytes >> 48) fail("{}: text bytes: expected less than 2^48, found {}", name, h.text_bytes);
  return h;
}

uint64_t padded(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

void check_documents(const ShardView& view, const std::string& name) {
  uint64_t previous = 0;
  for (size_t i = 0; i < view.documents.size(); ++i) {
    const uint64_t first = view.documents[i] & ~kIsolatedDocument;
    if (first >= view.header.tokens || (i > 0 && first <= previous)) {
      fail("{}: document {}: expected a first token between {} and {}, found {}", name, i, i > 0 ? previous + 1 : 0,
           view.header.tokens - 1, first);
    }
    previous = first;
  }
}

/// The tokens in `width` bytes each, with padding.
std::vector<std::byte> narrow_tokens(std::span<const int32_t> tokens, size_t width) {
  std::vector<std::byte> out(padded(tokens.size() * width));
  std::byte* p = out.data();
  for (const int32_t id : tokens) {
    std::memcpy(p, &id, width);  // the low bytes: little-endian
    p += width;
  }
  return out;
}

}  // namespace

uint32_t tables_crc(std::span<const uint64_t> documents, std::span<const uint8_t> loss_bits) {
  uint32_t crc = 0;  // zlib takes an empty span for a restart
  if (!documents.empty()) crc = crc32_update(crc, std::as_bytes(documents));
  return loss_bits.empty() ? crc : crc32_update(crc, std::as_bytes(loss_bits));
}

std::string shard_name(const std::string& split, int64_t index) { return fmt::format("{}-{:05}.tokens", split, index); }

ShardHeader write_shard(const fs::path& path, const TokenBuffer& buffer, ShardHeader header) {
  check(!buffer.tokens.empty(), "write_shard: expected at least one token");
  header.token_bytes = header.vocab <= (1u << 16) ? 2 : 4;
  header.tokens = buffer.tokens.size();
  header.documents = buffer.documents.size();
  header.text_bytes = static_cast<uint64_t>(buffer.text_bytes);
  header.has_loss_mask = !buffer.loss_bits.empty();
  const auto tokens = narrow_tokens(buffer.tokens, header.token_bytes);
  const auto documents = std::as_bytes(std::span(buffer.documents)), loss = std::as_bytes(std::span(buffer.loss_bits));
  header.tokens_crc = crc32_update(0, tokens);
  header.tables_crc = tables_crc(buffer.documents, buffer.loss_bits);
  AtomicFile file(path);
  file.write(encode_header(header));
  file.write(tokens);
  file.write(documents);
  file.write(loss);
  file.commit();
  return header;
}

ShardView parse_shard(const MappedFile& file) {
  const std::string name = file.path().string();
  const auto bytes = file.bytes();
  ShardView view{.header = decode_header(bytes, name), .tokens = {}, .documents = {}, .loss_bits = {}};
  const ShardHeader& h = view.header;
  const uint64_t body = bytes.size() - kHeaderBytes;
  if (h.tokens < 1 || h.tokens > body / h.token_bytes) {
    fail("{}: tokens: expected 1 to {} (the file has {} bytes), found {}", name, body / h.token_bytes, bytes.size(),
         h.tokens);
  }
  if (h.documents > body / 8) fail("{}: documents: expected at most {}, found {}", name, body / 8, h.documents);
  const uint64_t tokens = padded(h.tokens * h.token_bytes), documents = h.documents * 8;
  const uint64_t loss = h.has_loss_mask ? (h.tokens + 7) / 8 : 0;
  if (tokens + documents + loss != body) {
    fail("{}: size: expected {} bytes for {} tokens and {} documents, found {}", name,
         kHeaderBytes + tokens + documents + loss, h.tokens, h.documents, bytes.size());
  }
  view.tokens = bytes.subspan(kHeaderBytes, tokens);
  // The mapping is page-aligned and every section before these is a multiple of 8 bytes.
  view.documents = {reinterpret_cast<const uint64_t*>(bytes.data() + kHeaderBytes + tokens), h.documents};
  view.loss_bits = {reinterpret_cast<const uint8_t*>(bytes.data() + kHeaderBytes + tokens + documents), loss};
  const uint32_t crc = tables_crc(view.documents, view.loss_bits);
  if (crc != h.tables_crc) fail("{}: table checksum: expected {:08x}, found {:08x}", name, h.tables_crc, crc);
  check_documents(view, name);
  return view;
}

}  // namespace sluice
