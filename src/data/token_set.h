// Packed training data: the token ids of all documents, one after another, in memory or in memory-mapped shards.
//
// Each document is  [bos if the tokenizer adds one]  text  eos  (specification 7.1: packed without attention masks),
// each chat sample is its rendered conversation, "isolated": its tokens see no other sample (specification 8.1).
//
// A shard, "<split>-<5 digits>.tokens", is a little-endian file:
//   offset 0   char[8]  magic "SLUICEDT"
//          8   u32      version (1)
//         12   u32      bytes of a token: 2 (vocabulary <= 65536) or 4
//         16   u64      vocabulary: every token id is below it
//         24   u64      T, number of tokens, >= 1
//         32   u64      D, number of documents that begin in this shard
//         40   u64      bytes of UTF-8 text behind the tokens
//         48   u32      flags: 1 loss mask present, 2 last shard of the split
//         52   u32      index of this shard in the split, from 0
//         56   u64      fingerprint of the tokenizer's vocabulary
//         64   u32      CRC32 of the previous shard's header, 0 in the first: shards of two packings do not mix
//         68   u32      CRC32 of the tokens with their padding
//         72   u32      CRC32 of the document table and the loss mask
//         76   u32      CRC32 of the 76 bytes before
//         80   tokens, zero-padded to a multiple of 8 bytes
//          .   u64[D]   document table: index in this shard of the first token; bit 63 set if isolated; ascending
//          .   u8[]     ceil(T/8) bytes of loss mask if flagged, bit t%8 of byte t/8: token t may be a target
// Tokens before the first document of a shard belong to the document that began in an earlier one; an isolated
// document never crosses shards.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace sluice {

class Tokenizer;

/// Bit of a document table's entry: the document and its neighbours do not see each other.
constexpr uint64_t kIsolatedDocument = uint64_t{1} << 63;

/// What a set of tokens was made with.
struct TokenSetInfo {
  int64_t vocab = 0;       // ids are below it
  uint64_t tokenizer = 0;  // tokenizer_fingerprint()
  int64_t text_bytes = 0;  // UTF-8 bytes of the documents' text
};

/// Tokens in memory while and after packing; the layout of a shard's sections.
struct TokenBuffer {
  std::vector<int32_t> tokens;
  std::vector<uint64_t> documents;  // document table
  std::vector<uint8_t> loss_bits;   // empty: every token may be a target
  int64_t text_bytes = 0;

  /// Appends a run of tokens, `in_loss` or not.
  void append(std::span<const int32_t> ids, bool in_loss);
};

/// Where read() writes; all spans have the same length n.
struct TokenWindow {
  std::span<int32_t> ids;
  std::span<int32_t> first;  // index within the window of the first token that this token sees
  std::span<uint8_t> loss;   // 1 if the token may be a target
};

/// A read-only sequence of packed tokens. Safe to read from several threads.
class TokenSet {
 public:
  /// Owns the buffer. `name` is used in messages. Throws Error when it holds no token.
  TokenSet(TokenBuffer buffer, const TokenSetInfo& info, std::string name);
  /// Maps the shards of `split` ("train" or "eval") in `folder`. Checks sizes, headers, document tables and their
  /// checksums, not the tokens' (verify() does, reading everything). Throws Error naming file and field.
  static TokenSet open(const fs::path& folder, const std::string& split);
  /// Whether `folder` holds at least one shard of `split`.
  static bool exists(const fs::path& folder, const std::string& split);
  ~TokenSet();
  TokenSet(TokenSet&&) noexcept;

  const std::string& name() const { return name_; }
  const TokenSetInfo& info() const { return info_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return documents_; }
  int64_t isolated_documents() const { return isolated_; }
  /// Tokens that may be a target. Counts the bits of the mask.
  int64_t target_tokens() const;
  int64_t shards() const;
  /// Bytes of one token in memory or on disk.
  int token_bytes() const;
  /// Checksum over everything that training sees: a run resumes only on the same packing.
  uint32_t fingerprint() const { return fingerprint_; }

  /// Reads the tokens [begin, begin + n), which must exist. Throws Error naming the shard when an id is not below the
  /// vocabulary.
  void read(int64_t begin, const TokenWindow& out) const;

  /// Reads every shard and compares the tokens' checksum and range. Throws Error naming the shard.
  void verify() const;

 private:
  struct Segment;
  TokenSet() = default;
  const Segment& segment_of(int64_t token) const;
  void add_segment(Segment segment);
  void read_first(int64_t begin, std::span<int32_t> first) const;

  std::string name_;
  TokenSetInfo info_;
  std::vector<Segment> segments_;
  TokenBuffer buffer_;
  int64_t tokens_ = 0, documents_ = 0, isolated_ = 0;
  uint32_t fingerprint_ = 0;
};

/// Part [begin, end) of a set's tokens.
struct TokenRange {
  std::shared_ptr<const TokenSet> set;
  int64_t begin = 0, end = 0;

  TokenRange() = default;
  /// The whole set.
  explicit TokenRange(std::shared_ptr<const TokenSet> s) : set(std::move(s)), end(set->tokens()) {}
  int64_t size() const { return end - begin; }
};

/// Cuts the last `fraction` of the tokens off `range` and returns it: held-out data where the user names none.
/// Each part keeps at least two tokens; throws Error when there are fewer than four or `fraction` is not in (0, 1).
TokenRange hold_out(TokenRange& range, double fraction);

/// Checksum of the tokens of a vocabulary: equal for tokenizers that give the same ids the same bytes.
uint64_t tokenizer_fingerprint(const Tokenizer& tokenizer);

/// Bytes of text that each id stands for, for bits per byte; 0 for special tokens. One entry per id.
std::vector<int32_t> token_byte_lengths(const Tokenizer& tokenizer);

}  // namespace sluice
