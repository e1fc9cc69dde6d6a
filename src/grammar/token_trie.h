// The vocabulary as a trie over bytes, so that which tokens are allowed is one walk instead of a test per token.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace sluice {

/// Built once per tokenizer; immutable.
class TokenTrie {
 public:
  /// A node of the trie stands for the bytes on the way to it. Nodes are in preorder, children by byte; the root is not
  /// among them.
  struct Node {
    uint32_t end;          // the first node behind its subtree
    uint32_t first_token;  // its tokens are ids()[first_token, first_token of the next node)
    uint16_t depth;        // number of bytes, at least 1
    uint8_t byte;          // the last one
  };

  /// Of all tokens of ordinary text. Added tokens (`<｜User｜>` ...) are left out: only GrammarPart::token() allows
  /// them. Throws Error when a byte that UTF-8 needs has no token of its own, since then a text might not be
  /// completable.
  explicit TokenTrie(const Tokenizer& tokenizer);

  /// Of these byte strings, the index being the id; empty strings have no token. Throws the same.
  explicit TokenTrie(std::span<const std::string_view> tokens);

  /// The ids are below this; masks have one bit for each.
  int32_t vocab_size() const { return static_cast<int32_t>(bytes_begin_.size() - 1); }
  /// The bytes of a token, empty for ids that are not in the trie. Owned by the trie.
  std::string_view bytes(int32_t id) const;

  std::span<const Node> nodes() const { return {nodes_.data(), nodes_.size() - 1}; }
  /// The tokens that end at node `index` of nodes().
  std::span<const int32_t> tokens_at(size_t index) const {
    return std::span(ids_).subspan(nodes_[index].first_token,
                                   nodes_[index + 1].first_token - nodes_[index].first_token);
  }
  /// Bytes of the longest token.
  size_t max_depth() const { return max_depth_; }

 private:
  void build(std::span<const std::string_view> tokens);

  std::vector<Node> nodes_;  // one more at the end
  std::vector<int32_t> ids_;
  std::vector<char> bytes_;            // of all tokens, by id
  std::vector<uint32_t> bytes_begin_;  // by id, and the end
  size_t max_depth_ = 0;
};

}  // namespace sluice
