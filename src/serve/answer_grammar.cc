#include "serve/answer_grammar.h"

#include "base/error.h"
#include "serve/api_error.h"

namespace sluice {
namespace {

/// Each may hold some tens of MiB of masks.
constexpr size_t kMostGrammars = 8;

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

/// The arguments of one function: by its schema, or any object where the schema asks for more than can be guaranteed
/// and the client does not insist on it (`strict`).
GrammarPart arguments_of(const OrderedJson& function) {
  const Fields fields(function, "tools");
  const OrderedJson* schema = fields.find("parameters");
  if (!schema) return GrammarPart::json_object();
  GrammarPart part = GrammarPart::json(json_text(*schema));
  try {
    const Grammar tried(part, "tools");
    return part;
  } catch (const Error&) {
    if (fields.boolean("strict").value_or(false)) throw;
    return GrammarPart::json_object();
  }
}

/// What follows the beginning of a call that stands in the prompt already: its name, unless that is there too, and its
/// arguments.
GrammarPart demanded_call(const ChatRequest& chat, const AnswerFormat& format, const ServedModel& model) {
  const bool fenced = format.begun_call.find(kFencedCall) != std::string::npos;
  const bool named = chat.tool_choice.kind == ToolChoice::Kind::function;
  std::vector<GrammarPart> calls;
  for (const OrderedJson& tool : chat.tools) {
    const OrderedJson& function = tool.at("function");
    const auto& name = function.at("name").get_ref<const std::string&>();
    if (named && name != chat.tool_choice.function) continue;
    std::vector<GrammarPart> parts;
    if (!named) parts.push_back(GrammarPart::literal(name + (fenced ? "\n```json\n" : "")));
    if (!named && !fenced) parts.push_back(GrammarPart::token(need_token(model, "<｜tool▁sep｜>", "tool_choice")));
    parts.push_back(arguments_of(function));
    if (fenced) parts.push_back(GrammarPart::literal("\n```"));
    calls.push_back(GrammarPart::sequence(std::move(parts)));
  }
  return GrammarPart::sequence({GrammarPart::choice(std::move(calls)),
                                GrammarPart::token(need_token(model, kCallEnd, "tool_choice")),
                                GrammarPart::token(need_token(model, kCallsEnd, "tool_choice"))});
}

}  // namespace

std::shared_ptr<TokenGrammar> GrammarCache::get(const std::string& key, const ServedModel& model,
                                                const GrammarPart& part, const std::string& where) {
  {
    const std::lock_guard lock(mutex_);
    for (auto it = recent_.begin(); it != recent_.end(); ++it)
      if (it->first == key) {
        recent_.splice(recent_.begin(), recent_, it);
        return it->second;
      }
  }
  // Two requests of a new schema at once compile it twice, which is better than one waiting for the other's.
  auto grammar =
      std::make_shared<TokenGrammar>(std::make_shared<const Grammar>(part, where), model.trie, model.defaults.stop_ids);
  const std::lock_guard lock(mutex_);
  recent_.emplace_front(key, grammar);
  if (recent_.size() > kMostGrammars) recent_.pop_back();
  return grammar;
}

std::shared_ptr<TokenGrammar> answer_grammar(const ChatCompletion& request, const AnswerFormat& format,
                                             const ServedModel& model, GrammarCache& cache) {
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
      return cache.get(key, model, formatted_answer(request.format, thinking, model),
                       "response_format.json_schema.schema");
    }
    if (!format.begun_call.empty() && format.tools == ToolSyntax::deepseek) {
      const std::string key =
          fmt::format("call {} {} {}", format.begun_call, chat.tool_choice.function, json_text(chat.tools));
      return cache.get(key, model, demanded_call(chat, format, model), "tools");
    }
  } catch (const Error& e) {
    throw invalid_param(e.what());
  }
  return nullptr;
}

void GrammarConstraint::accept(int32_t id) { check(constraint_.accept(id), "grammar: expected an allowed token"); }

}  // namespace sluice
