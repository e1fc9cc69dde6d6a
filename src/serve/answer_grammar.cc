#include "serve/answer_grammar.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/error.h"
#include "serve/api_error.h"

namespace sluice {
namespace {

/// Of all functions of a request together, a second: two threads do this for all requests.
constexpr size_t kMostCallWork = 8 * kMaxGrammarWork;
/// Of these grammars, which the request holds while its texts are written, without their masks.
constexpr size_t kMostCallBytes = size_t{16} << 20;
constexpr size_t kMostEntries = 1024;

constexpr const char* kThinkEnd = "</think>";
constexpr const char* kCallEnd = "<｜tool▁call▁end｜>";
constexpr const char* kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr const char* kFencedCall = "function<｜tool▁sep｜>";

/// The answer begins inside of its thinking.
bool is_thinking(const AnswerFormat& format) { return format.start == ThinkingSplitter::State::thinking; }

int32_t need_token(const ServedModel& model, const char* text, const char* param) {
  const auto id = model.tokenizer.id_of(text);
  if (!id) throw invalid_param(param, fmt::format("not possible with this model: its tokenizer has no token {}", text));
  return *id;
}

/// JSON, after the thinking where there is some.
GrammarPart formatted_answer(const ResponseFormat& format, bool thinking, const ServedModel& model) {
  GrammarPart json =
      format.kind == ResponseFormat::Kind::json_object ? GrammarPart::json_object() : GrammarPart::json(format.schema);
  if (!thinking) return json;
  return GrammarPart::sequence({GrammarPart::free_text(),
                                GrammarPart::token(need_token(model, kThinkEnd, "response_format")),
                                GrammarPart::repeat(GrammarPart::literal("\n"), 0, 2), std::move(json)});
}

/// One text under a grammar.
class GrammarConstraint final : public TokenConstraint {
 public:
  explicit GrammarConstraint(Constraint begin) : constraint_(std::move(begin)) {}
  void mask(std::span<uint64_t> allowed) override { constraint_.allowed(allowed); }
  void accept(int32_t id) override { check(constraint_.accept(id), "grammar: expected an allowed token"); }
  bool can_end() const override { return constraint_.can_end(); }

 private:
  Constraint constraint_;
};

/// The functions of which one is to be called.
struct Calls {
  struct Function {
    std::string head;  // its name, and the text up to its arguments
    std::shared_ptr<TokenGrammar> arguments;
  };
  std::optional<Constraint> heads;  // at the beginning
  std::vector<Function> functions;
};

/// One text that calls one of several functions. The grammar of the arguments is chosen when the name is known: all
/// functions in one grammar would be compiled anew for every other set of them, and be too large sooner.
class CallConstraint final : public TokenConstraint {
 public:
  CallConstraint(std::shared_ptr<const Calls> calls, const TokenTrie& trie)
      : calls_(std::move(calls)), trie_(trie), constraint_(*calls_->heads) {}

  void mask(std::span<uint64_t> allowed) override { constraint_.allowed(allowed); }
  void accept(int32_t id) override {
    check(constraint_.accept(id), "grammar: expected an allowed token");
    if (in_arguments_) return;
    head_ += trie_.bytes(id);
    if (constraint_.can_end()) begin_arguments();
  }
  bool can_end() const override { return in_arguments_ && constraint_.can_end(); }

 private:
  void begin_arguments() {
    const auto& functions = calls_->functions;
    const auto called =
        std::find_if(functions.begin(), functions.end(), [&](const Calls::Function& f) { return f.head == head_; });
    check(called != functions.end(), "grammar: expected the name of a function");
    constraint_ = Constraint(called->arguments);
    in_arguments_ = true;
  }

  const std::shared_ptr<const Calls> calls_;
  const TokenTrie& trie_;
  Constraint constraint_;
  std::string head_;
  bool in_arguments_ = false;
};

/// Makes the grammars of a call that begins in the prompt.
class CallGrammars {
 public:
  CallGrammars(const AnswerFormat& format, const ServedModel& model, GrammarCache& cache)
      : fenced_(format.begun_call.find(kFencedCall) != std::string::npos), model_(model), cache_(cache) {}

  /// The arguments of one function, and the end of the call: by its schema, or any object where the schema asks for
  /// more than can be guaranteed and the client does not insist on it (`strict`).
  std::shared_ptr<TokenGrammar> arguments(const OrderedJson& function) {
    const Fields fields(function, "tools");
    const OrderedJson* schema = fields.find("parameters");
    if (!schema) return any_object();
    const bool strict = fields.boolean("strict").value_or(false);
    const std::string text = json_text(*schema);
    try {
      if (work_ > kMostCallWork) fail("tools: the schemas together are too intricate");
      const std::shared_ptr<TokenGrammar> grammar = get("schema " + text, GrammarPart::json(text));
      hold(grammar);
      return grammar;
    } catch (const Error&) {
      if (strict) throw;
      return any_object();
    }
  }

  /// Any of the functions, from its name on.
  Calls calls(const OrderedJson& tools) {
    Calls calls;
    std::vector<GrammarPart> heads;
    std::string key = fmt::format("heads {}", fenced_);
    for (const OrderedJson& tool : tools) {
      const OrderedJson& function = tool.at("function");
      const std::string head = function.at("name").get<std::string>() + (fenced_ ? "\n```json\n" : "");
      calls.functions.push_back({head, arguments(function)});
      heads.push_back(GrammarPart::literal(head));
      key += "\n" + head;
    }
    GrammarPart part = GrammarPart::choice(std::move(heads));
    if (!fenced_) part = GrammarPart::sequence({std::move(part), token("<｜tool▁sep｜>")});
    calls.heads.emplace(cache_.get(key, model_, part, "tools", work_));
    return calls;
  }

 private:
  GrammarPart token(const char* text) const { return GrammarPart::token(need_token(model_, text, "tool_choice")); }

  void hold(const std::shared_ptr<TokenGrammar>& grammar) {
    if (held_.contains(grammar)) return;
    if (bytes_ + grammar->grammar_bytes() > kMostCallBytes)
      fail("tools: the schemas together are too large: {} MiB once compiled are possible", kMostCallBytes >> 20);
    held_.insert(grammar);
    bytes_ += grammar->grammar_bytes();
  }

  std::shared_ptr<TokenGrammar> any_object() { return get("any", GrammarPart::json_object()); }

  std::shared_ptr<TokenGrammar> get(const std::string& key, GrammarPart json) {
    std::vector<GrammarPart> parts = {std::move(json)};
    if (fenced_) parts.push_back(GrammarPart::literal("\n```"));
    parts.push_back(token(kCallEnd));
    parts.push_back(token(kCallsEnd));
    return cache_.get(fmt::format("arguments {} {}", fenced_, key), model_, GrammarPart::sequence(std::move(parts)),
                      "tools", work_);
  }

  const bool fenced_;
  const ServedModel& model_;
  GrammarCache& cache_;
  size_t work_ = 0;  // of compiling all of them
  std::set<std::shared_ptr<TokenGrammar>> held_;
  size_t bytes_ = 0;  // of these
};

ConstraintMaker under(std::shared_ptr<TokenGrammar> grammar) {
  return [begin = Constraint(std::move(grammar))] { return std::make_unique<GrammarConstraint>(begin); };
}

/// What follows the beginning of a call that stands in the prompt already: its name, unless that is there too, and its
/// arguments.
ConstraintMaker demanded_call(const ChatRequest& chat, const AnswerFormat& format, const ServedModel& model,
                              GrammarCache& cache) {
  CallGrammars grammars(format, model, cache);
  if (chat.tool_choice.kind == ToolChoice::Kind::function) {
    const auto called = std::find_if(chat.tools.begin(), chat.tools.end(), [&](const OrderedJson& tool) {
      return tool.at("function").at("name") == chat.tool_choice.function;
    });
    return under(grammars.arguments(called->at("function")));
  }
  return [calls = std::make_shared<const Calls>(grammars.calls(chat.tools)), trie = model.trie] {
    return std::make_unique<CallConstraint>(calls, *trie);
  };
}

}  // namespace

std::shared_ptr<TokenGrammar> GrammarCache::result(const Entry& entry, size_t& work) {
  work += entry.work;
  if (!entry.grammar) throw Error(entry.error);
  return entry.grammar;
}

std::shared_ptr<TokenGrammar> GrammarCache::get(const std::string& key, const ServedModel& model,
                                                const GrammarPart& part, const std::string& where, size_t& work) {
  {
    const std::lock_guard lock(mutex_);
    const auto known = std::find_if(recent_.begin(), recent_.end(), [&](const Entry& e) { return e.key == key; });
    if (known != recent_.end()) {
      recent_.splice(recent_.begin(), recent_, known);
      trim();
      return result(recent_.front(), work);
    }
  }
  // Two requests of a new schema at once compile it twice, which is better than one waiting for the other's.
  Entry entry{key, nullptr, {}, 0};
  try {
    entry.grammar = std::make_shared<TokenGrammar>(std::make_shared<const Grammar>(part, where, &entry.work),
                                                   model.trie, model.defaults.stop_ids);
  } catch (const Error& e) {  // worth remembering too: finding it out takes as long
    entry.error = e.what();
  }
  const std::lock_guard lock(mutex_);
  recent_.push_front(entry);
  trim();
  return result(entry, work);
}

size_t GrammarCache::Entry::bytes() const {
  return sizeof(Entry) + key.size() + error.size() + (grammar ? grammar->bytes() : 0);
}

/// Keeps as many of the latest as there is room for: grammars grow while they are used.
void GrammarCache::trim() {
  size_t bytes = 0, count = 0;
  const auto end = std::find_if(recent_.begin(), recent_.end(), [&](const Entry& e) {
    bytes += e.bytes();
    return ++count > kMostEntries || (count > 1 && bytes > most_bytes_);
  });
  recent_.erase(end, recent_.end());
}

size_t GrammarCache::bytes() const {
  const std::lock_guard lock(mutex_);
  size_t bytes = 0;
  for (const Entry& e : recent_) bytes += e.bytes();
  return bytes;
}

ConstraintMaker answer_constraint(const ChatCompletion& request, const AnswerFormat& format, const ServedModel& model,
                                  GrammarCache& cache) {
  using Choice = ToolChoice::Kind;
  const ChatRequest& chat = request.chat;
  const bool formatted = request.format.kind != ResponseFormat::Kind::text;
  if (formatted && !chat.tools.empty() && chat.tool_choice.kind != Choice::none)
    throw invalid_param("response_format", "not supported together with tools, unless tool_choice is none");
  if (formatted && chat.messages.back().value("prefix", false))
    throw invalid_param("response_format", "not supported for a message that is to be continued (prefix)");
  try {
    if (formatted) {
      const bool thinking = is_thinking(format);
      const std::string key =
          fmt::format("format {} {} {}", static_cast<int>(request.format.kind), thinking, request.format.schema);
      size_t work = 0;
      return under(cache.get(key, model, formatted_answer(request.format, thinking, model),
                             "response_format.json_schema.schema", work));
    }
    if (!format.begun_call.empty() && format.tools == ToolSyntax::deepseek)
      return demanded_call(chat, format, model, cache);
  } catch (const Error& e) {
    throw invalid_param(e.what());
  }
  return {};
}

}  // namespace sluice
