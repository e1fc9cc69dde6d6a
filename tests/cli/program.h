// Drives the sluice binary as a user does, and what the tests of the program share: a small text and model shape.
#pragma once
#include <sys/resource.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "../base/temp_dir.h"

namespace sluice {

using Words = std::vector<std::string>;

/// How a process ended.
struct Outcome {
  int exit_code = -1;  // -1: ended by `signal`
  int signal = 0;
  std::string out, err;
};

/// What the process gets besides its arguments.
struct Launch {
  Words wrapper;  // a program and its arguments, before sluice's own
  rlim_t file_bytes = RLIM_INFINITY;
};

/// A running `sluice ARGS`; killed by the destructor. Its output goes to two files of a folder of its own.
class Program {
 public:
  explicit Program(const Words& args, const Launch& launch = {});
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  void send(int signal) const;
  bool is_running();
  /// What it has written to stdout and stderr so far.
  std::string out() const;
  std::string err() const;
  Outcome wait();

 private:
  TempDir output_;
  pid_t pid_ = -1;
  bool is_done_ = false;
  int status_ = 0;
};

/// Runs to the end.
Outcome sluice(const Words& args, const Launch& launch = {});

/// Checks exit code 2 and that stderr is one line which contains each of `parts`. Returns the line.
std::string expect_user_error(const Outcome& o, const Words& parts);

/// The lines of a text.
Words lines_of(const std::string& text);

/// English-looking lines, always the same.
std::string sample_text(size_t bytes, unsigned seed = 1);

/// config.json of a DeepSeek-V3 shape with a few thousand parameters; `extra` (JSON fields, each with a comma before
/// it) comes last.
std::string model_json(const std::string& extra = "");

}  // namespace sluice
