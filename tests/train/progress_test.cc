#include "train/progress.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

StepMetrics metrics(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.loss_main = 3.21449;
  m.tokens_per_second = 12345;
  m.flops_per_second = 45.6e9;
  return m;
}

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(0), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(59.6), "1 min 00 s");
  EXPECT_EQ(format_duration(174), "2 min 54 s");
  EXPECT_EQ(format_duration(3 * 3600 + 5 * 60), "3 h 05 min");
  EXPECT_EQ(format_duration(2 * 86400 + 7 * 3600), "2 d 07 h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(NAN), "?");
  EXPECT_EQ(format_duration(INFINITY), "?");
}

TEST(Progress, FormatsNumbersWithPrefixes) {
  EXPECT_EQ(format_si(0), "0");
  EXPECT_EQ(format_si(512), "512");
  EXPECT_EQ(format_si(1.5), "1.50");
  EXPECT_EQ(format_si(999.6), "1.00k");
  EXPECT_EQ(format_si(12345), "12.3k");
  EXPECT_EQ(format_si(99960), "100k");
  EXPECT_EQ(format_si(4128768), "4.13M");
  EXPECT_EQ(format_si(45.6e9, " ") + "FLOP/s", "45.6 GFLOP/s");
  EXPECT_EQ(format_si(NAN), "?");
}

TEST(Progress, ShowsWhatFitsAndNeverMore) {
  EXPECT_EQ(progress_line(metrics(50), 100, 61, 100, true),
            "step 50/100  [==============>             ]  loss 3.214  12.3k tok/s  45.6 GFLOP/s  1 min 01 s left");
  EXPECT_EQ(progress_line(metrics(50), 100, 61, 40, true), "step 50/100  loss 3.214  1 min 01 s left");
  EXPECT_EQ(progress_line(metrics(50), 100, -1, 30, true), "step 50/100  loss 3.214");
  EXPECT_EQ(progress_line(metrics(50), 100, 61, 12, true), "step 50/100");
  EXPECT_EQ(progress_line(metrics(50), 100, 61, 4, true), "step");
  EXPECT_EQ(progress_line(metrics(50), 100, 61, 160, false),
            "step 50/100  loss 3.214  12.3k tok/s  45.6 GFLOP/s  1 min 01 s left");
  for (int64_t step : {0, 1, 50, 100, 123456789})
    for (int width = 0; width < 180; ++width)
      EXPECT_LE(progress_line(metrics(step), 100, 1e6, width, true).size(), static_cast<size_t>(width));
}

TEST(Progress, IsQuietWhenPiped) {
  TempDir dir;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen((dir / "out").c_str(), "w"), std::fclose);
  Progress progress(file.get(), 100);
  const Progress::Clock::time_point start{};
  progress.finish();  // before any step: nothing
  for (int i = 1; i <= 100; ++i) progress.update(metrics(i), start + std::chrono::milliseconds(300 * i));
  progress.note("saved");
  progress.finish();
  progress.finish();
  const std::string text = read_file(dir / "out");
  // 29.7 s: the lines at 0, 10.2 and 20.4 s, and the last step.
  EXPECT_EQ(text,
            "step 1/100  loss 3.214  12.3k tok/s  45.6 GFLOP/s\n"
            "step 35/100  loss 3.214  12.3k tok/s  45.6 GFLOP/s  20 s left\n"
            "step 69/100  loss 3.214  12.3k tok/s  45.6 GFLOP/s  9 s left\n"
            "saved\n"
            "step 100/100  loss 3.214  12.3k tok/s  45.6 GFLOP/s  0 s left\n");
}

constexpr const char* kNoTerminal = "no pseudo-terminal";

/// What a terminal `columns` wide receives.
std::string terminal_output(unsigned short columns, void (*draw)(Progress&)) {
  int primary = -1, terminal = -1;
  winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  if (openpty(&primary, &terminal, nullptr, nullptr, &size) != 0) return kNoTerminal;
  {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(fdopen(terminal, "w"), std::fclose);
    Progress progress(file.get(), 100);
    draw(progress);
    std::fflush(file.get());
  }
  std::string out;
  char piece[4096];
  for (ssize_t n; (n = read(primary, piece, sizeof piece)) > 0;) out.append(piece, static_cast<size_t>(n));
  close(primary);
  return out;
}

TEST(Progress, RedrawsOneLineOnATerminal) {
  const std::string text = terminal_output(40, [](Progress& p) {
    const Progress::Clock::time_point start{};
    p.update(metrics(1), start);
    p.update(metrics(2), start + std::chrono::milliseconds(50));  // too soon
    p.update(metrics(3), start + std::chrono::milliseconds(100));
    p.note("saved");
    p.finish();
  });
  if (text == kNoTerminal) GTEST_SKIP() << text;  // a bare chroot has none
  // The terminal turns "\n" into "\r\n". 39 columns at most.
  EXPECT_EQ(text,
            "\rstep 1/100  [>            ]  loss 3.214\x1b[K"
            "\rstep 3/100  loss 3.214  5 s left\x1b[K"
            "\r\x1b[Ksaved\r\n"
            "\rstep 3/100  loss 3.214  5 s left\x1b[K"
            "\r\n");
}

}  // namespace
}  // namespace sluice
