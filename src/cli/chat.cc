// sluice chat: a conversation on the terminal.
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "base/rng.h"
#include "chat/text_stream.h"
#include "cli/commands.h"
#include "cli/inference.h"
#include "tokenizer/chat_template.h"

namespace sluice {
namespace {

struct Arguments {
  InferenceOptions inference;
  SamplingOptions sampling;
};

constexpr const char* kUserToken = "<｜User｜>";

/// Lines of standard input. Ctrl-C empties the line that is being typed.
class LineReader {
 public:
  /// False at the end of the input.
  bool next(std::string& line) {
    for (;;) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return true;
      }
      char piece[4096];
      const ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
      if (n > 0) {
        buffer_.append(piece, static_cast<size_t>(n));
      } else if (n < 0 && errno == EINTR) {
        buffer_.clear();
        InterruptGuard::reset();
        write_out("\n(/exit or Ctrl-D leaves)\n> ");
      } else {
        line = std::move(buffer_);
        buffer_.clear();
        return !line.empty();
      }
    }
  }

 private:
  std::string buffer_;
};

/// Writes the assistant's answer and returns its text.
std::string answer(Session& session, const Inference& inference, GenerateOptions options,
                   const std::vector<ChatTurn>& turns, uint64_t turn) {
  std::vector<int32_t> ids;
  const Tokenizer& tokenizer = inference.need_tokenizer();
  tokenizer.encode(render_chat(turns, true), true, ids);
  options.seed = mix64(options.seed + turn);
  TextStream stream(tokenizer, {});
  std::string text;
  const auto put = [&](const std::string& piece) {
    text += piece;
    write_out(piece);
  };
  InterruptGuard::reset();
  const GenerateResult result = generate(session, ids, options, [&](int32_t id) {
    put(stream.push(id));
    return !InterruptGuard::interrupted();
  });
  put(stream.finish());
  InterruptGuard::reset();
  write_out(result.finish == Finish::context_full ? "\n(the context is full: /reset starts again)\n" : "\n");
  fmt::print(stderr, "[{}]\n", describe(result));
  return text;
}

void run(const Arguments& a) {
  const Inference inference = open_inference(a.inference);
  if (!inference.need_tokenizer().id_of(kUserToken))
    fail("{}: expected a tokenizer with {}, a model that knows the chat format", inference.folder.string(), kUserToken);
  const GenerateOptions options = generate_options(a.sampling, inference);
  const auto session = open_session(inference, a.sampling.draft);
  const InterruptGuard guard;
  fmt::print(stderr, "{}: /reset forgets the conversation, /exit leaves, Ctrl-C stops an answer\n",
             inference.folder.string());
  LineReader reader;
  std::vector<ChatTurn> turns;
  std::string line;
  for (uint64_t turn = 0; write_out("> "), reader.next(line);) {
    if (line == "/exit") return;
    if (line == "/reset") {
      turns.clear();
      continue;
    }
    if (line.empty()) continue;
    turns.push_back({{"user", line}, {}});
    try {
      turns.push_back({{"assistant", answer(*session, inference, options, turns, turn++)}, {}});
    } catch (const Error& e) {  // the conversation no longer fits into the context
      turns.pop_back();
      fmt::print(stderr, "{}\n", e.what());
    }
  }
  write_out("\n");
}

}  // namespace

void add_chat_command(CLI::App& app) {
  const auto a = std::make_shared<Arguments>();
  a->sampling.max_tokens = 1024;
  CLI::App* command = app.add_subcommand("chat", "Talk to a model on the terminal");
  add_inference_options(*command, a->inference);
  add_sampling_options(*command, a->sampling);
  command->footer("Example: sluice chat --model out/chat-model --temperature 0.6");
  command->callback([a] { run(*a); });
}

}  // namespace sluice
