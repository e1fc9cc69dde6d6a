// sluice chat: a conversation on the terminal.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "chat/answer.h"
#include "chat/fit.h"
#include "cli/commands.h"
#include "cli/inference.h"
#include "serve/chat_client.h"

namespace sluice {
namespace {

struct Arguments {
  InferenceOptions inference;
  SamplingOptions sampling;
  std::string system, url;
  bool show_thinking = false;
};

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

/// Shows one answer as it comes. A thinking section is one line with its number of tokens, or its text where that is
/// wanted; dim on a terminal.
class AnswerView {
 public:
  explicit AnswerView(bool show_thinking) : show_(show_thinking), terminal_(isatty(STDOUT_FILENO) == 1) {}

  /// What a token has brought; `is_thinking`: it belongs to the thinking section.
  void push(const AnswerEvents& events, bool is_thinking) {
    tokens_ += is_thinking;
    if (!show_ && terminal_ && is_thinking) write_out("\r" + marker());
    for (const AnswerEvent& event : events) {
      if (event.kind == AnswerEvent::Kind::reasoning) {
        if (show_) write_out(dim(event.text));
      } else {
        end_thinking();
        write_out(event.text);
        answer_ += event.text;
      }
    }
  }
  void finish() { end_thinking(); }
  /// The answer without its thinking, as the conversation remembers it.
  const std::string& answer() const { return answer_; }

 private:
  void end_thinking() {
    if (tokens_ == 0 || thought_ended_) return;
    thought_ended_ = true;
    write_out(show_ ? "\n" : terminal_ ? "\r" + marker() + "\n" : marker() + "\n");
  }

  std::string marker() const { return dim(fmt::format("(thinking: {} tokens)", tokens_)); }
  std::string dim(const std::string& text) const { return terminal_ ? "\x1b[2m" + text + "\x1b[0m" : text; }

  const bool show_, terminal_;
  bool thought_ended_ = false;
  int64_t tokens_ = 0;  // of the thinking
  std::string answer_;
};

class Conversation {
 public:
  virtual ~Conversation() = default;
  /// Of the model, for the user.
  virtual std::string name() const = 0;
  /// Begins anew.
  virtual void reset() = 0;
  /// Answers `message`. Throws Error, and forgets the message, when it does not fit into the context or cannot be
  /// answered.
  virtual void answer(const std::string& message) = 0;
};

/// With a model in this process.
class Chat final : public Conversation {
 public:
  explicit Chat(const Arguments& a)
      : inference_(open_inference(a.inference)),
        options_(generate_options(a.sampling, inference_)),
        session_(open_session(inference_, a.sampling.draft)),
        show_thinking_(a.show_thinking),
        format_(inference_.tokenizer_config, inference_.path.string()) {
    inference_.need_tokenizer();
    if (format_.is_base())
      fail("{}: expected a model with a chat template, found none: sluice generate completes texts",
           inference_.path.string());
    if (!a.system.empty()) system_.push_back({{"system", a.system}, {}});
    reset();
  }

  std::string name() const override { return inference_.path.string(); }

  void reset() override {
    turns_ = system_;
    num_answers_ = 0;
  }

  void answer(const std::string& message) override {
    const std::vector<ChatTurn> before = turns_;
    try {
      write_answer(add_message(message));
    } catch (...) {
      turns_ = before;
      throw;
    }
  }

 private:
  void write_answer(const FittedChat& chat) {
    GenerateOptions options = options_;
    options.seed = mix64(options.seed + num_answers_++);
    AnswerParser parser(*inference_.tokenizer, chat.answer, {});
    AnswerView view(show_thinking_);
    InterruptGuard::reset();
    const GenerateResult result = generate(
        *session_, chat.ids, options,
        [&](int32_t id) {
          const AnswerEvents events = parser.push(id);
          view.push(events, parser.section() == AnswerEvent::Kind::reasoning);
          return !InterruptGuard::interrupted();
        },
        &drafting_);
    view.push(parser.finish(), false);
    view.finish();
    InterruptGuard::reset();
    turns_.push_back({{"assistant", view.answer()}, {}});
    write_out("\n");
    fmt::print(stderr, "[{}]\n", describe(result, *inference_.engine));
  }

  /// Adds the user's message and makes room for an answer; returns the prompt.
  FittedChat add_message(const std::string& message) {
    const int64_t context = inference_.engine->context(), answer = std::min(options_.max_tokens, context / 4);
    std::vector<ChatTurn> turns = turns_;
    turns.push_back({{"user", message}, {}});
    FittedChat chat = fit_chat(turns, format_, *inference_.tokenizer, context - answer);
    const int64_t tokens = static_cast<int64_t>(chat.ids.size());
    if (tokens > context) fail("message: {} tokens do not fit into the context of {} (--ctx)", tokens, context);
    if (chat.dropped)
      fmt::print(stderr, "(the context of {} tokens is full: the oldest {} messages are forgotten)\n", context,
                 chat.dropped);
    turns_ = chat.turns;
    return chat;
  }

  Inference inference_;
  GenerateOptions options_;
  std::unique_ptr<Session> session_;
  bool show_thinking_;
  ChatFormat format_;
  DraftSwitch drafting_;
  std::vector<ChatTurn> system_, turns_;
  uint64_t num_answers_ = 0;
};

/// With a model behind a server.
class RemoteChat final : public Conversation {
 public:
  explicit RemoteChat(const Arguments& a)
      : client_(client_options(a)), show_thinking_(a.show_thinking), system_(a.system) {
    reset();
  }

  std::string name() const override { return client_.model(); }
  void reset() override {
    messages_ = OrderedJson::array();
    if (!system_.empty()) add("system", system_);
  }
  void answer(const std::string& message) override {
    const OrderedJson before = messages_;
    try {
      add("user", message);
      write_answer();
    } catch (...) {
      messages_ = before;
      throw;
    }
  }

 private:
  static ChatClientOptions client_options(const Arguments& a) {
    const SamplingOptions& s = a.sampling;
    const char* key = std::getenv("SLUICE_API_KEY");
    ChatClientOptions o{a.url,        key ? key : "", s.temperature, s.top_p, s.min_p, s.repetition_penalty,
                        std::nullopt, s.max_tokens,   s.seed};
    if (s.top_k > 0) o.top_k = s.top_k;
    return o;
  }
  void add(const char* role, const std::string& content) {
    messages_.push_back({{"role", role}, {"content", content}});
  }
  void write_answer() {
    AnswerView view(show_thinking_);
    InterruptGuard::reset();
    const ChatClientUsage usage = client_.answer(messages_, [&](const AnswerEvents& events) {
      view.push(events, !events.empty() && events.front().kind == AnswerEvent::Kind::reasoning);
      return !InterruptGuard::interrupted();
    });
    view.finish();
    InterruptGuard::reset();
    add("assistant", view.answer());
    write_out("\n");
    if (usage.tokens > 0)
      fmt::print(stderr, "[prompt {} tokens, {} of them cached, text {} tokens]\n", usage.prompt_tokens,
                 usage.cached_tokens, usage.tokens);
  }

  ChatClient client_;
  bool show_thinking_;
  std::string system_;
  OrderedJson messages_;
};

std::unique_ptr<Conversation> open_conversation(const Arguments& a) {
  if (a.url.empty() == a.inference.model.empty())
    fail("chat: expected --model or --url, found {}", a.url.empty() ? "neither" : "both");
  if (a.url.empty()) return std::make_unique<Chat>(a);
  return std::make_unique<RemoteChat>(a);
}

void run(const Arguments& a) {
  const std::unique_ptr<Conversation> conversation = open_conversation(a);
  Conversation& chat = *conversation;
  const InterruptGuard guard;
  fmt::print(stderr, "{}: /reset starts over, /exit leaves, Ctrl-C stops an answer\n", chat.name());
  LineReader reader;
  for (std::string line; write_out("> "), reader.next(line);) {
    if (line == "/exit") return;
    if (line == "/reset") {
      chat.reset();
    } else if (!line.empty()) {
      try {
        chat.answer(line);
      } catch (const Error& e) {
        fmt::print(stderr, "{}\n", e.what());
      }
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
  add_device_option(*command, a->inference);
  command->get_option("--model")->required(false);
  command->add_option("--url", a->url,
                      "instead of --model: http://HOST:PORT of a server (its key, if it wants one: SLUICE_API_KEY)");
  add_sampling_options(*command, a->sampling);
  command->add_option("--system", a->system, "system prompt: what the model is told first");
  command->add_flag("--show-thinking", a->show_thinking,
                    "show <think>...</think> at the beginning of an answer, which is else one line");
  command->footer(
      "/reset starts over, Ctrl-C stops an answer, /exit or Ctrl-D leaves. Thinking is not kept in the conversation.\n"
      "A message needs room in the context (--ctx) for itself and an answer of --max-tokens or a quarter of the\n"
      "context; to make it, the oldest messages are forgotten, never the system prompt, and one line says so.\n\n"
      "Example: sluice chat --model out/chat-model --temperature 0.6\n"
      "         sluice chat --url http://127.0.0.1:8080");
  command->callback([a] { run(*a); });
}

}  // namespace sluice
