#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "temp_dir.h"

namespace sluice {
namespace {

size_t count_files(const TempDir& dir) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()));
}

TEST(AtomicFile, AppearsOnCommitOnly) {
  const TempDir dir;
  const fs::path path = dir / "a";
  {
    AtomicFile file(path);
    file.write("one");
    EXPECT_FALSE(fs::exists(path));
    file.write(" two");
    file.commit();
  }
  EXPECT_EQ(read_file(path), "one two");
  EXPECT_EQ(count_files(dir), 1u);
}

TEST(AtomicFile, WithoutCommitNothingChanges) {
  const TempDir dir;
  const fs::path path = dir / "a";
  write_file(path, "old");
  {
    AtomicFile file(path);
    file.write("new");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_files(dir), 1u);
  write_file(path, "new");
  EXPECT_EQ(read_file(path), "new");
  EXPECT_EQ(count_files(dir), 1u);
}

TEST(AtomicFile, FailuresNameTheFileAndLeaveNothing) {
  const TempDir dir;
  EXPECT_NE(error_of([&] { write_file(dir / "no/such", "x"); }).find((dir / "no/such").string()), std::string::npos);
  fs::create_directory(dir / "target");
  write_file(dir / "target/inside", "x");
  EXPECT_NE(error_of([&] { write_file(dir / "target", "x"); }).find("expected a regular file or nothing"),
            std::string::npos);
  EXPECT_EQ(count_files(dir), 1u);
}

TEST(AtomicFile, AnUnwritableFolderIsAnError) {
  EXPECT_NE(error_of([&] { write_file("/proc/sluice-test", "x"); }).find("cannot create"), std::string::npos);
  if (geteuid() == 0) return;  // root may write everywhere else
  const TempDir dir;
  fs::permissions(dir.path(), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_NE(error_of([&] { write_file(dir / "a", "x"); }).find("cannot create"), std::string::npos);
  fs::permissions(dir.path(), fs::perms::owner_all);
}

/// Limits the size of files while it lives, so that a write fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_{};
};

TEST(AtomicFile, AWriteThatFailsHalfWayKeepsTheOldFile) {
  const TempDir dir;
  const fs::path path = dir / "a";
  write_file(path, "old");
  std::string text;
  {
    const FileSizeLimit limit(1000);
    text = error_of([&] { write_file(path, std::string(5000, 'x')); });
  }
  EXPECT_NE(text.find(path.string() + ": cannot write"), std::string::npos) << text;
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_files(dir), 1u);
}

TEST(AtomicFile, AFullDiskIsAnError) {
  // The temporary file beside "x" is a link to a device that is always full.
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempDir dir;
  fs::create_symlink("/dev/full", dir / "x.tmp");
  std::string text;
  try {
    AtomicFile file(dir / "x");
    file.write("text");
  } catch (const Error& e) {
    text = e.what();
  }
  EXPECT_NE(text.find("No space left on device"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(dir / "x"));
}

TEST(MappedFile, ReadsAndMoves) {
  const TempDir dir;
  write_file(dir / "a", "hello");
  write_file(dir / "empty", "");
  MappedFile a(dir / "a");
  EXPECT_EQ(a.bytes().size(), 5u);
  const std::byte* data = a.bytes().data();
  MappedFile b = std::move(a);
  EXPECT_EQ(b.bytes().data(), data);
  EXPECT_EQ(b.path(), dir / "a");
  b = MappedFile(dir / "empty");
  EXPECT_TRUE(b.bytes().empty());
  EXPECT_EQ(read_file(dir / "empty"), "");
  EXPECT_NE(error_of([&] { MappedFile m(dir / "none"); }).find("none: cannot open: No such file"), std::string::npos);
  EXPECT_NE(error_of([&] { MappedFile m(dir.path()); }).find("expected a regular file"), std::string::npos);
}

/// Run under strace by the next test.
TEST(AtomicFileHelper, DISABLED_WritesOneFile) { write_file(std::getenv("SLUICE_TEST_FILE"), "some text"); }

/// Whether a line of the log is a successful call of `name` (or `name`at) with `argument`.
bool is_call(const std::string& line, const std::string& name, const std::string& argument) {
  return line.starts_with(name) && line.find(argument) != std::string::npos && line.find(" = -1") == std::string::npos;
}

TEST(AtomicFile, SystemCallsComeInTheSafeOrder) {
  const TempDir dir;
  const std::string log = (dir / "log").string(), target = (dir / "target").string();
  const std::string self = fs::read_symlink("/proc/self/exe").string();
  const std::string command = fmt::format(
      "ASAN_OPTIONS=detect_leaks=0 SLUICE_TEST_FILE='{}' strace -y -o '{}' -e "
      "trace=openat,write,fsync,rename,renameat,renameat2 '{}' "
      "--gtest_also_run_disabled_tests --gtest_filter=AtomicFileHelper.* >/dev/null 2>&1",
      target, log, self);
  if (std::system("strace -o /dev/null true >/dev/null 2>&1") != 0) GTEST_SKIP() << "strace does not run here";
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  EXPECT_EQ(read_file(target), "some text");

  // strace -y prints the path of each descriptor: write(3</tmp/x/target.tmp>, ...).
  const std::string temporary = "<" + target + ".tmp>", folder = "<" + dir.path().string() + ">";
  const std::pair<const char*, std::string> expected[] = {
      {"write", temporary}, {"fsync", temporary}, {"rename", target}, {"fsync", folder}};
  std::ifstream lines(log);
  size_t next = 0;
  std::string trace;
  for (std::string line; std::getline(lines, line);) {
    if (line.find(dir.path().string()) == std::string::npos) continue;
    trace += line + "\n";
    if (next < std::size(expected) && is_call(line, expected[next].first, expected[next].second)) ++next;
  }
  EXPECT_EQ(next, std::size(expected)) << trace;
}

}  // namespace
}  // namespace sluice
