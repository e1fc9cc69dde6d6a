#include "engine/prefix_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/rng.h"
#include "engine/prefix_cache.h"
#include "engine/prefix_fingerprint.h"
#include "request_fixture.h"

namespace sluice::test {
namespace {

constexpr int64_t kLayers = 3, kWidth = 8;  // the last layer is not stored
constexpr uint64_t kRoom = 1 << 20;

/// A page's rows, which tell the page.
void fill(KvCache& cache, int32_t page, int32_t what) {
  for (int64_t l = 0; l < kLayers; ++l)
    for (int64_t i = 0; i < kPageTokens * kWidth; ++i)
      cache.layer(l).f32()[page * kPageTokens * kWidth + i] = static_cast<float>(what * 1000 + l * 100 + i % 100);
}

bool is_filled(KvCache& cache, int32_t page, int32_t what) {
  for (int64_t l = 0; l < kLayers - 1; ++l)
    for (int64_t i = 0; i < kPageTokens * kWidth; ++i)
      if (cache.layer(l).f32()[page * kPageTokens * kWidth + i] != static_cast<float>(what * 1000 + l * 100 + i % 100))
        return false;
  return true;
}

std::vector<int32_t> ids_of(int32_t what, int64_t pages) {
  std::vector<int32_t> ids(static_cast<size_t>(pages * kPageTokens), what);
  for (size_t i = 0; i < ids.size(); i += 3) ids[i] = static_cast<int32_t>(i);
  return ids;
}

PrefixKey key_of(std::span<const int32_t> ids) {
  PrefixKey key;
  for (size_t i = 0; i < ids.size(); i += kPageTokens) key = key.then(ids.subspan(i).first<kPageTokens>());
  return key;
}

/// A store over a cache of its own.
struct Opened {
  KvCache cache{kLayers, kWidth, 4};
  PrefixStore store;
  explicit Opened(const TestFolder& folder, uint64_t fingerprint = 1, uint64_t bytes = kRoom)
      : store(folder.path(), fingerprint, bytes, cache, kLayers - 1) {}
  void save(int32_t what, int64_t pages = 1) {
    const auto ids = ids_of(what, pages);
    fill(cache, 0, what);
    store.save(key_of(ids), ids, 0);
    fill(cache, 0, -1);  // it was copied
    store.flush();
  }
  bool contains(int32_t what, int64_t pages = 1) { return store.contains(key_of(ids_of(what, pages))); }
  bool load(int32_t what, int64_t pages = 1) {
    const auto ids = ids_of(what, pages);
    return store.load(key_of(ids), ids, 1) && is_filled(cache, 1, what);
  }
};

TEST(PrefixStore, PagesSurviveTheProcess) {
  TestFolder folder;
  {
    Opened o(folder);
    o.save(1);
    o.save(2, 3);
    EXPECT_TRUE(o.load(1));
    EXPECT_THROW(PrefixStore(folder.path(), 1, kRoom, o.cache, 2), Error);  // one process at a time
  }
  Opened o(folder);
  EXPECT_TRUE(o.load(2, 3));
  EXPECT_TRUE(o.load(1));
  EXPECT_FALSE(o.contains(3));
  EXPECT_FALSE(o.load(3));
  EXPECT_EQ(folder.files().size(), 2u);
}

TEST(PrefixStore, AnotherModelsPagesAreNotUsed) {
  TestFolder folder;
  Opened(folder, 1).save(1);
  {
    Opened o(folder, 2);
    EXPECT_FALSE(o.contains(1));
    EXPECT_FALSE(o.load(1));
    o.save(1);
  }
  EXPECT_EQ(folder.files().size(), 2u);
  // Nor under a name of this one's.
  fs::path of_2, of_1;
  for (const auto& f : folder.files()) (f.filename().string().starts_with("0000000000000002") ? of_2 : of_1) = f;
  fs::copy_file(of_1, of_2, fs::copy_options::overwrite_existing);
  Opened o(folder, 2);
  EXPECT_TRUE(o.contains(1));
  EXPECT_FALSE(o.load(1));
  EXPECT_FALSE(o.contains(1));
  EXPECT_FALSE(fs::exists(of_2));
  EXPECT_TRUE(fs::exists(of_1));
}

TEST(PrefixStore, BrokenFilesAreRemoved) {
  TestFolder folder;
  Opened(folder).save(1, 2);
  const fs::path file = folder.files().at(0);
  const std::string good = read_file(file);
  std::vector<std::string> broken = {"", good.substr(0, 10), good.substr(0, good.size() - 1), good + "x",
                                     std::string(good.size(), '\0')};
  for (size_t i = 0; i < good.size(); i += 1 + good.size() / 60 * (i >= 60)) {  // every byte of the header, some others
    broken.push_back(good);
    broken.back()[i] = static_cast<char>(broken.back()[i] ^ 4);
  }
  for (const std::string& bytes : broken) {
    std::ofstream(file, std::ios::binary) << bytes;
    Opened o(folder);
    EXPECT_FALSE(o.load(1, 2));
    EXPECT_FALSE(fs::exists(file));
  }
  std::ofstream(file, std::ios::binary) << good;
  EXPECT_TRUE(Opened(folder).load(1, 2));
}

TEST(PrefixStore, OtherTokensOfTheSameNameAreNotUsed) {
  TestFolder folder;
  Opened o(folder);
  o.save(1);
  const auto ids = ids_of(2, 1);
  EXPECT_FALSE(o.store.load(key_of(ids_of(1, 1)), ids, 1));
}

TEST(PrefixStore, KeepsTheMostRecentlyUsedBelowItsBound) {
  TestFolder folder;
  uint64_t bytes = 0;
  {
    Opened o(folder);
    o.save(0);
    bytes = fs::file_size(folder.files().at(0));
  }
  {
    Opened o(folder, 1, 4 * bytes + 10);
    for (int32_t what = 1; what < 4; ++what) o.save(what);
    EXPECT_TRUE(o.load(0));
    o.save(1);  // is there already: used again
    o.save(4);
    EXPECT_FALSE(o.contains(2));
    EXPECT_EQ(folder.files().size(), 4u);
  }
  Opened(folder, 2, 4 * bytes + 10).save(9);  // another model's files count too
  {
    Opened o(folder);
    EXPECT_FALSE(o.contains(3));
    for (const int32_t what : {0, 1, 4}) EXPECT_TRUE(o.load(what));
  }
  Opened o(folder, 1, 2 * bytes);
  EXPECT_EQ(folder.files().size(), 2u);
  Opened(TestFolder(), 1, bytes - 1).save(1);  // larger than all there may be
}

TEST(PrefixStore, TouchesNothingButItsFiles) {
  TestFolder folder;
  fs::create_directory(folder.path() / "folder.kv");
  std::ofstream(folder.path() / "notes.txt") << "mine";
  std::ofstream(folder.path() / "a.kv.tmp") << "of a process that was killed";
  Opened o(folder, 1, 1);
  EXPECT_TRUE(fs::exists(folder.path() / "folder.kv"));
  EXPECT_TRUE(fs::exists(folder.path() / "notes.txt"));
  EXPECT_FALSE(fs::exists(folder.path() / "a.kv.tmp"));
  std::ofstream(folder.path() / "file") << "x";
  EXPECT_THROW(PrefixStore(folder.path() / "file", 1, kRoom, o.cache, 2), Error);
}

TEST(PrefixStore, SurvivesBeingKilled) {
  TestFolder folder;
  int64_t survived = 0;
  for (int round = 0; round < 8; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Opened o(folder);
      for (int32_t what = round * 1000;; ++what) o.save(what);
    }
    usleep(static_cast<useconds_t>(3000 + 7000 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    Opened o(folder);
    for (const fs::path& f : folder.files()) EXPECT_TRUE(f.string().ends_with(".kv")) << f;
    for (int32_t what = round * 1000; o.contains(what); ++what) {
      EXPECT_TRUE(o.load(what)) << what;
      ++survived;
    }
  }
  EXPECT_GT(survived, 0);
}

TEST(PrefixFingerprint, DiffersBetweenModels) {
  const auto of = [](const Model& m) {
    Engine engine(stream(1), m, {});
    const uint64_t f = prefix_fingerprint(engine);
    EXPECT_EQ(engine.cache().free_pages(), engine.cache().pages());
    return f;
  };
  const uint64_t base = of(random_model(stream(1), tiny_config(), 0));
  EXPECT_EQ(base, of(random_model(stream(1), tiny_config(), 0)));
  EXPECT_NE(base, of(random_model(stream(1), tiny_config(), 0, Precision::f32, 2)));
  EXPECT_NE(base, of(random_model(stream(1), tiny_config(), 0, Precision::bf16)));
  HfConfig c = tiny_config();
  c.rope_theta *= 2;
  EXPECT_NE(base, of(random_model(stream(1), c, 0)));
  Model m = random_model(stream(1), tiny_config(), 0);
  m.weights.layers[1].moe.up[3].tensor().f32()[0] += 1;  // seen by no sample of bytes, but by the rows
  EXPECT_NE(base, of(m));
}

/// Where there is no room for all of a prompt, its beginning stays.
TEST(PrefixCache, DoesNotEvictABeginningForWhatFollowsIt) {
  TestFolder folder;
  KvCache cache(kLayers, kWidth, 4);
  PrefixStore store(folder.path(), 1, kRoom, cache, kLayers - 1);
  const auto ids = ids_of(1, 6);
  fill(cache, 0, 1);
  for (int64_t n = 1; n <= 6; ++n) {
    const auto beginning = std::span(ids).first(static_cast<size_t>(n * kPageTokens));
    store.save(key_of(beginning), beginning, 0);
  }
  store.flush();
  PrefixCache prefixes(cache, &store);
  std::vector<int32_t> pages = {cache.acquire(), cache.acquire()};
  prefixes.insert(std::span(ids).first(2 * kPageTokens), pages);
  for (const int32_t page : pages) cache.release(page);
  EXPECT_EQ(prefixes.begin_reading(ids), key_of(std::span(ids).first(4 * kPageTokens)));
  while (prefixes.is_reading()) prefixes.take_read(true);
  EXPECT_EQ(prefixes.length(ids).pages, 4);
  EXPECT_EQ(cache.idle_pages(), 4);
}

/// Serves `all` with a new engine that has a disk cache; returns its statistics.
SchedulerStats serve(const TestFolder& folder, const Model& model, std::vector<Asked>& all) {
  Engine engine(stream(2), model, {512, 2048, 0});
  SchedulerOptions options;
  options.cache_folder = folder.path();
  Scheduler scheduler(engine, options);
  for (Asked& a : all) {
    a.recorder = std::make_shared<Recorder>();
    submit(scheduler, a);
  }
  run_all(scheduler);
  for (const Asked& a : all) expect_as_generated(model, a, 512);
  return scheduler.stats();
}

TEST(PrefixStore, ASchedulerFindsPrefixesOfTheOneBefore) {
  TestFolder folder;
  Rng rng(1);
  std::vector<Asked> all(3);
  for (Asked& a : all) {
    a.prompt = random_ids(rng, 300, 150);
    a.options.max_tokens = 20;
  }
  EXPECT_EQ(serve(folder, small_model(), all).cache_hit, 0);
  EXPECT_EQ(folder.files().size(), 12u);
  SchedulerStats s = serve(folder, small_model(), all);
  EXPECT_EQ(s.disk_hit, 3 * 256);
  EXPECT_EQ(s.cache_hit, 3 * 256);
  std::ofstream(folder.files().at(0), std::ios::binary) << "broken";
  s = serve(folder, small_model(), all);
  EXPECT_LT(s.disk_hit, 3 * 256);
  EXPECT_EQ(folder.files().size(), 12u);  // written anew
  EXPECT_EQ(serve(folder, random_model(stream(1), small_model().config, 1, Precision::f32, 7), all).cache_hit, 0);
}

/// A disk that takes long to answer: a pipe in place of a file. Who opens it waits until it is closed, or it is gone:
/// nobody waits for ever.
class SlowDisk {
 public:
  SlowDisk(const fs::path& file, int milliseconds) {
    fs::remove(file);
    EXPECT_EQ(mkfifo(file.c_str(), 0600), 0);
    const int pipe = open(file.c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_GE(pipe, 0);
    thread_ = std::thread([this, file, pipe, milliseconds] {
      for (int i = 0; i < milliseconds / 10 && !answers; ++i) usleep(10'000);
      answers = true;
      fs::remove(file);
      close(pipe);
    });
  }
  ~SlowDisk() {
    answers = true;
    thread_.join();
  }

  std::atomic<bool> answers = false;

 private:
  std::thread thread_;
};

/// Two texts, of which `folder` gets the page of the first.
std::vector<Asked> one_stored(const TestFolder& folder) {
  Rng rng(2);
  std::vector<Asked> stored = {asked_of(random_ids(rng, 100, 150), 20)};
  serve(folder, small_model(), stored);
  return {asked_of(stored[0].prompt, 20), asked_of(random_ids(rng, 30, 150), 470)};
}

TEST(PrefixStore, OtherTextsDoNotWaitForTheDisk) {
  TestFolder folder;
  std::vector<Asked> all = one_stored(folder);
  Engine engine(stream(2), small_model(), {512, 2048, 0});
  SchedulerOptions options;
  options.cache_folder = folder.path();
  Scheduler scheduler(engine, options);
  SlowDisk disk(folder.files().at(0), 60'000);
  for (Asked& a : all) submit(scheduler, a);
  while (!all[1].recorder->result && scheduler.step()) {
  }
  EXPECT_FALSE(disk.answers);
  EXPECT_FALSE(all[0].recorder->result);
  disk.answers = true;
  run_all(scheduler);
  expect_all_as_generated(small_model(), all);
}

/// A text that runs alone may need the pages into which others are being read.
TEST(PrefixStore, PagesThatAreBeingReadAreWaitedFor) {
  TestFolder folder;
  std::vector<Asked> all = one_stored(folder);
  Engine engine(stream(2), small_model(), {512, 512, 0});  // pages for one sequence
  SchedulerOptions options;
  options.cache_folder = folder.path();
  Scheduler scheduler(engine, options);
  SlowDisk disk(folder.files().at(0), 2000);
  for (Asked& a : all) submit(scheduler, a);
  run_all(scheduler);
  expect_all_as_generated(small_model(), all);
}

}  // namespace
}  // namespace sluice::test
