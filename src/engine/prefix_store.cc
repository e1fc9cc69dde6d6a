#include "engine/prefix_store.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <utility>

#include "base/rng.h"
#include "formats/checksums.h"

namespace sluice {
namespace {

/// What waits to be written, at most.
constexpr size_t kMostJobBytes = size_t{64} << 20;
constexpr std::string_view kSuffix = ".kv", kTemporarySuffix = ".kv.tmp";

/// At the beginning of a file; the tokens and the rows, layer by layer, follow.
struct Header {
  char magic[8] = {'s', 'l', 'u', 'i', 'c', 'e', 'k', 'v'};
  uint32_t version = 1;
  uint32_t crc32 = 0;  // of all that follows this field
  uint64_t fingerprint = 0;
  int64_t layers = 0, width = 0, tokens = 0;
};
static_assert(sizeof(Header) == 48);
constexpr size_t kSummedFrom = 16;

uint32_t checksum(std::string_view file) {
  return crc32_update(0, std::as_bytes(std::span(file).subspan(kSummedFrom)));
}

}  // namespace

PrefixKey PrefixKey::then(std::span<const int32_t, kPageTokens> ids) const {
  PrefixKey k = *this;
  for (const int32_t id : ids) {
    k.high = mix64(k.high ^ static_cast<uint32_t>(id));
    k.low = mix64(k.low + 0x632be59bd9b4e019ull * (static_cast<uint32_t>(id) + 1ull));
  }
  return k;
}

PrefixStore::PrefixStore(const fs::path& folder, uint64_t fingerprint, uint64_t most_bytes, KvCache& cache,
                         int64_t layers)
    : folder_(folder), fingerprint_(fingerprint), most_bytes_(most_bytes), cache_(cache), layers_(layers) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot create the folder of cached prefixes: {}", folder.string(), error.message());
  lock_.emplace(folder);
  read_folder();
  make_room(0);
  reader_ = std::thread([this] { read_all(); });
  writer_ = std::thread([this] { write_all(); });
}

PrefixStore::~PrefixStore() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  reader_.join();
  writer_.join();
}

std::string PrefixStore::name(const PrefixKey& key) const {
  return fmt::format("{:016x}-{:016x}{:016x}{}", fingerprint_, key.high, key.low, kSuffix);
}

/// Finds the files of earlier runs; what a killed one was writing is removed. Files of other names are not ours.
void PrefixStore::read_folder() {
  std::error_code error;
  for (fs::directory_iterator i(folder_, error), end; !error && i != end; i.increment(error)) {
    const std::string name = i->path().filename().string();
    if (!i->is_regular_file(error)) continue;
    if (name.ends_with(kTemporarySuffix)) {
      fs::remove(i->path(), error);
    } else if (name.ends_with(kSuffix)) {
      std::error_code bad_size, bad_time;
      const uint64_t bytes = i->file_size(bad_size);
      const int64_t used = i->last_write_time(bad_time).time_since_epoch().count();
      if (!bad_size && !bad_time) add(name, bytes, used);
    }
    error.clear();
  }
  if (error) fail("{}: cannot read the folder of cached prefixes: {}", folder_.string(), error.message());
}

void PrefixStore::add(const std::string& name, uint64_t bytes, int64_t used) {
  files_[name] = {bytes, used};
  least_recent_.emplace(used, name);
  bytes_ += bytes;
}

/// Removes a file and forgets it.
void PrefixStore::remove(const std::string& name) {
  const auto found = files_.find(name);
  if (found == files_.end()) return;
  std::error_code ignored;
  fs::remove(folder_ / name, ignored);
  bytes_ -= found->second.bytes;
  least_recent_.erase({found->second.used, name});
  files_.erase(found);
}

/// Removes the least recently used files until `bytes` more fit.
void PrefixStore::make_room(uint64_t bytes) {
  while (!least_recent_.empty() && bytes_ + bytes > most_bytes_) remove(std::string(least_recent_.begin()->second));
}

bool PrefixStore::contains(const PrefixKey& key) const {
  const std::lock_guard lock(mutex_);
  return files_.contains(name(key));
}

size_t PrefixStore::file_bytes(size_t tokens) const {
  return sizeof(Header) + tokens * sizeof(int32_t) +
         static_cast<size_t>(layers_ * kPageTokens * cache_.width()) * dtype_size(cache_.dtype());
}

std::string PrefixStore::encode(std::span<const int32_t> ids, int32_t page) const {
  std::string out(file_bytes(ids.size()), '\0');
  Header header;
  header.fingerprint = fingerprint_;
  header.layers = layers_;
  header.width = cache_.width();
  header.tokens = static_cast<int64_t>(ids.size());
  char* to = out.data() + sizeof header;
  std::memcpy(to, ids.data(), ids.size_bytes());
  to += ids.size_bytes();
  for (int64_t l = 0; l < layers_; ++l) {
    const Tensor rows(to, cache_.dtype(), {kPageTokens, cache_.width()});
    cache_.read(l, page, rows);
    to += rows.bytes();
  }
  std::memcpy(out.data(), &header, sizeof header);
  return out;
}

bool PrefixStore::decode(std::string_view bytes, std::span<const int32_t> ids, int32_t page) const {
  Header header;
  if (bytes.size() != file_bytes(ids.size())) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  const Header expected;
  if (std::memcmp(header.magic, expected.magic, sizeof header.magic) != 0 || header.version != expected.version ||
      header.fingerprint != fingerprint_ || header.layers != layers_ || header.width != cache_.width() ||
      header.tokens != static_cast<int64_t>(ids.size()) || header.crc32 != checksum(bytes))
    return false;
  const char* from = bytes.data() + sizeof header;
  if (std::memcmp(from, ids.data(), ids.size_bytes()) != 0) return false;
  from += ids.size_bytes();
  for (int64_t l = 0; l < layers_; ++l) {
    const Tensor rows(const_cast<char*>(from), cache_.dtype(), {kPageTokens, cache_.width()});
    cache_.write(l, page, rows);
    from += rows.bytes();
  }
  return true;
}

bool PrefixStore::load(const PrefixKey& key, std::span<const int32_t> ids, int32_t page) {
  const std::string name = this->name(key);
  std::string bytes(file_bytes(ids.size()), '\0');
  std::ifstream in(folder_ / name, std::ios::binary);  // not mapped: a disk that fails must not raise a signal
  in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  const bool ok = in && in.peek() == std::ifstream::traits_type::eof() && decode(bytes, ids, page);
  const std::lock_guard lock(mutex_);
  if (ok) {
    touch(name);
  } else {
    remove(name);
  }
  return ok;
}

void PrefixStore::load_later(const PrefixKey& key, std::shared_ptr<const std::vector<int32_t>> prompt, size_t tokens,
                             int32_t page) {
  const std::span<const int32_t> ids = std::span(*prompt).first(tokens);
  const std::lock_guard lock(mutex_);
  to_load_.push_back({key, std::move(prompt), ids, page, false});
  changed_.notify_all();
}

std::vector<PrefixStore::Loaded> PrefixStore::take_loaded() {
  const std::lock_guard lock(mutex_);
  return std::exchange(loaded_, {});
}

void PrefixStore::wait_loaded() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return to_load_.empty() || !loaded_.empty(); });
}

void PrefixStore::read_all() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !to_load_.empty(); });
    if (to_load_.empty()) return;
    Loaded& next = to_load_.front();  // stays where it is when others are added
    lock.unlock();
    try {
      next.ok = load(next.key, next.ids, next.page);
    } catch (const std::exception&) {  // no memory: the page is computed
    }
    lock.lock();
    loaded_.push_back(std::move(next));
    to_load_.pop_front();
    changed_.notify_all();
  }
}

/// A file was of use: also to the next process that looks at its time.
void PrefixStore::touch(const std::string& name) {
  const auto found = files_.find(name);
  if (found == files_.end()) return;
  std::error_code ignored;
  const auto time = fs::file_time_type::clock::now();
  fs::last_write_time(folder_ / name, time, ignored);
  least_recent_.erase({found->second.used, name});
  found->second.used = time.time_since_epoch().count();
  least_recent_.emplace(found->second.used, name);
}

void PrefixStore::save(const PrefixKey& key, std::span<const int32_t> ids, int32_t page) {
  const size_t bytes = file_bytes(ids.size());
  {
    const std::lock_guard lock(mutex_);
    const std::string name = this->name(key);
    if (files_.contains(name)) return touch(name);
    if (bytes > most_bytes_ || job_bytes_ + bytes > kMostJobBytes || pending_.contains(key)) return;
    pending_.insert(key);
    job_bytes_ += bytes;
  }
  Job job{key, encode(ids, page)};
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void PrefixStore::flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return pending_.empty(); });
}

void PrefixStore::write_all() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    make_room(job.bytes.size());
    lock.unlock();
    bool ok = false;
    try {
      write(job);
      ok = true;
    } catch (const std::exception&) {  // the page is not saved
    }
    lock.lock();
    if (ok) {
      add(name(job.key), job.bytes.size(), 0);
      touch(name(job.key));  // the system's own time of a file is coarse
    }
    pending_.erase(job.key);
    job_bytes_ -= job.bytes.size();
    changed_.notify_all();
  }
}

void PrefixStore::write(Job& job) const {
  const uint32_t crc32 = checksum(job.bytes);
  std::memcpy(job.bytes.data() + offsetof(Header, crc32), &crc32, sizeof crc32);
  AtomicFile file(folder_ / name(job.key));
  file.write(job.bytes);
  file.commit();
}

}  // namespace sluice
