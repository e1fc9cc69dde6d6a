// Bytes <-> one shard; the format is described in data/token_set.h.
#pragma once
#include <cstdint>
#include <span>

#include "base/file.h"
#include "data/token_set.h"

namespace sluice {

/// The fixed fields of a shard, in the order of the file.
struct ShardHeader {
  uint32_t token_bytes = 0;
  uint64_t vocab = 0, tokens = 0, documents = 0, text_bytes = 0;
  bool has_loss_mask = false, last = false;
  uint32_t index = 0;
  uint64_t tokenizer = 0;
  uint32_t previous_crc = 0, tokens_crc = 0, tables_crc = 0;
  uint32_t crc = 0;  // of the header itself
};

/// A shard's sections, inside its mapping.
struct ShardView {
  ShardHeader header;
  std::span<const std::byte> tokens;  // with padding
  std::span<const uint64_t> documents;
  std::span<const uint8_t> loss_bits;  // empty without a mask
};

/// CRC32 of a document table and the loss mask after it.
uint32_t tables_crc(std::span<const uint64_t> documents, std::span<const uint8_t> loss_bits);

/// "<split>-<index>.tokens".
std::string shard_name(const std::string& split, int64_t index);

/// Writes `buffer` (1 token at least) atomically to `path`. `header` needs index, last, previous_crc, vocab and
/// tokenizer; the rest is filled in. Returns the header as written. Throws Error naming the file.
ShardHeader write_shard(const fs::path& path, const TokenBuffer& buffer, ShardHeader header);

/// Checks everything but the tokens. Throws Error naming the file and field. The view lives as long as `file`.
ShardView parse_shard(const MappedFile& file);

}  // namespace sluice
