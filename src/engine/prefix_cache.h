// Beginnings of prompts that were computed already, shared between sequences without copies: a radix tree whose edges
// are full pages of the KV cache, so that a node is a page and the path to it the tokens before it.
//
// Only pages whose rows were all computed as rows of a prompt belong here. Rows of text attend in another form and
// differ from those in their last bits (RowKind), and a text must not depend on whose rows it found. The MTP module's
// rows of a page are not shared: the last of them depends on the token after the page (Session::start_drafting).
#pragma once
#include <array>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "engine/kv_cache.h"
#include "engine/prefix_store.h"

namespace sluice {

class PrefixCache {
 public:
  struct Found {
    std::vector<int32_t> pages;  // in order; the finder holds a reference to each
    int64_t from_store = 0;      // how many of them were read from the store
  };

  /// `store`, where prefixes outlive the process, or null. Both must outlive it.
  PrefixCache(KvCache& cache, PrefixStore* store);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The pages of the longest beginning of `ids` that is cached or stored, which becomes the most recently used.
  /// Evicts others for what it reads from the store.
  Found find(std::span<const int32_t> ids);

  /// How many pages of the beginning of `ids` are in memory, and how many of those nobody holds. Changes nothing.
  struct Length {
    int64_t pages = 0, idle = 0;
  };
  Length length(std::span<const int32_t> ids) const;

  /// Caches `pages` of the tokens `ids` (kPageTokens for each), all rows computed as a prompt's. Pages of tokens that
  /// are cached already stay what they are. Returns the cached page for each of `pages`: where it is another one, the
  /// caller may share it in place of its own, which has the same bits.
  std::vector<int32_t> insert(std::span<const int32_t> ids, std::span<const int32_t> pages);

  /// Frees the least recently used page that nobody else holds and that is the end of a path. False when there is none.
  bool evict();

 private:
  using PageIds = std::array<int32_t, kPageTokens>;
  using Children = std::map<PageIds, int32_t>;  // pages
  struct Node {
    int32_t parent = kRoot;
    Children::iterator place;  // in the parent's children
    Children children;
    uint64_t used = 0;  // the larger, the later
    PrefixKey key;      // of the tokens up to the end of the page
  };
  static constexpr int32_t kRoot = -1;

  Node& node(int32_t page) { return page == kRoot ? root_ : nodes_[static_cast<size_t>(page)]; }
  const Node& node(int32_t page) const { return page == kRoot ? root_ : nodes_[static_cast<size_t>(page)]; }
  int32_t child(int32_t page, const PageIds& ids) const;
  void add(int32_t parent, const PageIds& ids, int32_t page);
  void remove(int32_t page);
  void touch(int32_t page);
  int32_t read(const PrefixKey& key, std::span<const int32_t> ids);

  KvCache& cache_;
  PrefixStore* store_;
  Node root_;
  std::vector<Node> nodes_;                        // by page
  std::set<std::pair<uint64_t, int32_t>> leaves_;  // (used, page) of nodes without children
  uint64_t time_ = 0;
};

}  // namespace sluice
