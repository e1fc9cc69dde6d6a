// Pages of the prefix cache on disk, where they outlive the process: one file per page, named by a key of all tokens up
// to the end of the page. A file is written beside its name and renamed when it is whole, holds a checksum and the
// tokens themselves, and belongs to one model on one kind of machine: what is not exactly what was computed here is
// never used. Files that are broken are removed, and the least recently used when all files (of other models too) take
// more than their bound. One process at a time uses a folder.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "engine/kv_cache.h"

namespace sluice {

/// Names the tokens from the beginning up to the end of a page. Not cryptographic: files hold the tokens too.
struct PrefixKey {
  uint64_t high = 0, low = 0;
  /// The key with one more page of tokens.
  PrefixKey then(std::span<const int32_t, kPageTokens> ids) const;
  auto operator<=>(const PrefixKey&) const = default;
};

class PrefixStore {
 public:
  /// Makes `folder` if need be. Pages are those of the first `layers` layers of `cache`, which must outlive the store;
  /// `fingerprint`: of what their contents depend on besides tokens. Keeps at most `most_bytes`. Throws Error naming
  /// the folder when it cannot be made or read, or another process uses it.
  PrefixStore(const fs::path& folder, uint64_t fingerprint, uint64_t most_bytes, KvCache& cache, int64_t layers);
  /// Reads and writes what is waiting.
  ~PrefixStore();
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;

  /// Whether there is a file for `key`.
  bool contains(const PrefixKey& key) const;

  /// Reads the rows of the last page of the tokens `ids`, whose key is `key`, into `page` of the cache. False, and the
  /// file is gone, when it is not what it should be; `page` may be overwritten then. Throws
  /// std::bad_alloc alone.
  bool load(const PrefixKey& key, std::span<const int32_t> ids, int32_t page);

  /// The same on a thread of its own, one after the other, of the first `tokens` of `prompt`, which is shared by all
  /// pages of it: `page` is the store's until take_loaded() gives it back.
  void load_later(const PrefixKey& key, std::shared_ptr<const std::vector<int32_t>> prompt, size_t tokens,
                  int32_t page);
  struct Loaded {
    PrefixKey key;
    std::shared_ptr<const std::vector<int32_t>> prompt;
    std::span<const int32_t> ids;  // the beginning of it
    int32_t page = 0;
    bool ok = false;
  };
  /// What has been loaded since the last call, in the order in which it was asked for.
  std::vector<Loaded> take_loaded();
  /// Returns when there is something to take, or nothing is to be loaded.
  void wait_loaded();

  /// Writes the same from a copy, on a thread of its own; a file that is there already is the most recently used now.
  /// What waits is bounded: where the disk does not keep up, pages are not saved. Nor are they where it is full or
  /// fails: a cache may forget.
  void save(const PrefixKey& key, std::span<const int32_t> ids, int32_t page);

  /// Returns when nothing waits to be written.
  void flush();

 private:
  struct File {
    uint64_t bytes = 0;
    int64_t used = 0;  // time of the last use, by the file system's clock
  };
  struct Job {
    PrefixKey key;
    std::string bytes;
  };

  std::string name(const PrefixKey& key) const;
  size_t file_bytes(size_t tokens) const;
  std::string encode(std::span<const int32_t> ids, int32_t page) const;
  bool decode(std::string_view bytes, std::span<const int32_t> ids, int32_t page) const;
  void read_folder();
  void add(const std::string& name, uint64_t bytes, int64_t used);
  void remove(const std::string& name);
  void touch(const std::string& name);
  void make_room(uint64_t bytes);
  void read_all();
  void write_all();
  void write(Job& job) const;

  const fs::path folder_;
  const uint64_t fingerprint_, most_bytes_;
  KvCache& cache_;
  const int64_t layers_;
  std::optional<FolderLock> lock_;
  mutable std::mutex mutex_;  // for all below
  std::condition_variable changed_;
  std::map<std::string, File> files_;                       // by name
  std::set<std::pair<int64_t, std::string>> least_recent_;  // (used, name)
  uint64_t bytes_ = 0;
  std::deque<Job> jobs_;
  size_t job_bytes_ = 0;
  std::set<PrefixKey> pending_;
  std::deque<Loaded> to_load_;  // the first is being loaded
  std::vector<Loaded> loaded_;
  bool stop_ = false;
  std::thread reader_, writer_;
};

}  // namespace sluice
