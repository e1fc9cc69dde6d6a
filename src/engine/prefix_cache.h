// Beginnings of prompts that were computed already, shared between sequences without copies: a radix tree whose edges
// are full pages of the KV cache, so that a node is a page and the path to it the tokens before it.
//
// Only pages whose rows were all computed as rows of a prompt belong here. Rows of text attend in another form and
// differ from those in their last bits (RowKind), and a text must not depend on whose rows it found. The MTP module's
// rows of a page are not shared: the last of them depends on the token after the page (Session::start_drafting).
#pragma once
#include <array>
#include <map>
#include <optional>
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
    int64_t from_store = 0;      // how many of them were read from the store, and nobody had found them since
  };

  /// `store`, where prefixes outlive the process, or null. Both must outlive it.
  PrefixCache(KvCache& cache, PrefixStore* store);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The pages of the longest beginning of `ids` that is in memory, which becomes the most recently used.
  Found find(std::span<const int32_t> ids);

  /// Whether the store has the page after the longest beginning of `ids` that is in memory.
  bool is_stored(std::span<const int32_t> ids) const;
  /// Begins to read the pages of the beginning of `ids` that are in the store and not in memory, and evicts others for
  /// them. Returns the last one's key: what is read is there when is_reading() of it is over. Nothing where there are
  /// none, or no page can be freed.
  std::optional<PrefixKey> begin_reading(std::span<const int32_t> ids);
  bool is_reading(const PrefixKey& key) const { return reading_.contains(key); }
  bool is_reading() const { return !reading_.empty(); }
  /// Takes over what has been read. `wait`: until there is something.
  void take_read(bool wait);

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
    uint64_t used = 0;           // the larger, the later
    PrefixKey key;               // of the tokens up to the end of the page
    bool is_from_store = false;  // and not found yet
  };
  static constexpr int32_t kRoot = -1;

  Node& node(int32_t page) { return page == kRoot ? root_ : nodes_[static_cast<size_t>(page)]; }
  const Node& node(int32_t page) const { return page == kRoot ? root_ : nodes_[static_cast<size_t>(page)]; }
  int32_t child(int32_t page, const PageIds& ids) const;
  void add(int32_t parent, const PageIds& ids, int32_t page);
  void remove(int32_t page);
  void touch(int32_t page);
  int32_t last_page(std::span<const int32_t> ids, int64_t& pages) const;

  KvCache& cache_;
  PrefixStore* store_;
  Node root_;
  std::vector<Node> nodes_;                        // by page
  std::set<std::pair<uint64_t, int32_t>> leaves_;  // (used, page) of nodes without children
  std::set<PrefixKey> reading_;
  uint64_t time_ = 0;
};

}  // namespace sluice
