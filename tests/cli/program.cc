#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

namespace sluice {
namespace {

/// In the child: nothing but system calls.
[[noreturn]] void become(std::vector<char*>& argv, const char* out, const char* err, rlim_t file_bytes) {
  const int out_fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0644),
            err_fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const int in_fd = open("/dev/null", O_RDONLY);
  dup2(in_fd, 0), dup2(out_fd, 1), dup2(err_fd, 2);
  if (file_bytes != RLIM_INFINITY) {
    const rlimit limit{file_bytes, file_bytes};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  execvp(argv[0], argv.data());
  _exit(127);
}

}  // namespace

Program::Program(const Words& args, const Launch& launch) {
  Words words = launch.wrapper;
  words.push_back(SLUICE_BINARY);
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const std::string out = output_ / "out", err = output_ / "err";
  pid_ = fork();
  if (pid_ == 0) become(argv, out.c_str(), err.c_str(), launch.file_bytes);
  if (pid_ < 0) throw Bug("fork");
}

Program::~Program() {
  if (is_done_) return;
  send(SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Program::send(int signal) const { ::kill(pid_, signal); }

bool Program::is_running() {
  if (!is_done_ && waitpid(pid_, &status_, WNOHANG) == pid_) is_done_ = true;
  return !is_done_;
}

std::string Program::out() const { return fs::exists(output_ / "out") ? read_file(output_ / "out") : ""; }

std::string Program::err() const { return fs::exists(output_ / "err") ? read_file(output_ / "err") : ""; }

Outcome Program::wait() {
  if (!is_done_) waitpid(pid_, &status_, 0);
  is_done_ = true;
  Outcome o;
  if (WIFEXITED(status_)) o.exit_code = WEXITSTATUS(status_);
  if (WIFSIGNALED(status_)) o.signal = WTERMSIG(status_);
  // A process that was killed early has opened neither.
  if (fs::exists(output_ / "out")) o.out = read_file(output_ / "out");
  o.err = err();
  return o;
}

Outcome sluice(const Words& args, const Launch& launch) { return Program(args, launch).wait(); }

std::string expect_user_error(const Outcome& o, const Words& parts) {
  EXPECT_EQ(o.signal, 0) << o.err;
  EXPECT_EQ(o.exit_code, 2) << o.err;
  EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  EXPECT_TRUE(o.err.starts_with("sluice: ")) << o.err;
  for (const std::string& part : parts)
    EXPECT_NE(o.err.find(part), std::string::npos) << part << " is not in " << o.err;
  return o.err;
}

Words lines_of(const std::string& text) {
  Words lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string sample_text(size_t bytes, unsigned seed) {
  static const Words kWords{"the",  "river", "runs",   "to",    "sea",     "and",   "cold", "winter",
                            "sun",  "she",   "said",   "no",    "never",   "maybe", "old",  "stone",
                            "boat", "wait",  "bridge", "light", "morning", "it",    "was",  "anne"};
  std::string out;
  while (out.size() < bytes) {
    seed = seed * 1664525 + 1013904223;
    out += kWords[(seed >> 16) % kWords.size()];
    out += (seed >> 8 & 15) == 0 ? ".\n" : " ";
  }
  return out;
}

std::string model_json(const std::string& extra) {
  return R"({"model_type": "deepseek_v3", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 24,
"moe_intermediate_size": 8, "num_hidden_layers": 2, "first_k_dense_replace": 1, "num_attention_heads": 2,
"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
"max_position_embeddings": 256, "num_nextn_predict_layers": 1, "initializer_range": 0.05)" +
         extra + "}\n";
}

}  // namespace sluice
