#include "serve/chat_completion.h"

#include "base/error.h"
#include "serve/api_error.h"

namespace sluice {
namespace {

ResponseFormat parse_format(const Fields& body) {
  const auto format = body.object("response_format");
  if (!format) return {};
  const std::string type = format->text("type").value_or("");
  if (type == "text") return {};
  if (type == "json_object") return {ResponseFormat::Kind::json_object};
  if (type != "json_schema")
    throw invalid_param("response_format.type", "expected text, json_object or json_schema, found \"" + type + "\"");
  const auto outer = format->object("json_schema");
  const OrderedJson* schema = outer ? outer->find("schema") : nullptr;
  if (!schema || !schema->is_object())
    throw invalid_param("response_format.json_schema.schema", "expected a JSON schema, an object");
  return {ResponseFormat::Kind::json_schema, json_text(*schema)};
}

std::optional<int64_t> parse_logprobs(const Fields& body) {
  const bool wanted = body.boolean("logprobs").value_or(false);
  const auto top = body.integer("top_logprobs", 0, kMostTopLogprobs);
  if (top && !wanted) throw invalid_param("top_logprobs", "expected only with logprobs: true");
  return wanted ? std::optional(top.value_or(0)) : std::nullopt;
}

}  // namespace

ChatCompletion parse_chat_completion(const OrderedJson& body, const GenerateOptions& defaults) {
  const Fields fields(body);
  for (const char* old : {"functions", "function_call"})
    if (fields.find(old)) throw invalid_param(old, "not supported; use tools and tool_choice");
  ChatCompletion c;
  c.text = parse_text_request(fields, defaults);
  c.format = parse_format(fields);
  c.top_logprobs = parse_logprobs(fields);
  c.parallel_calls = fields.boolean("parallel_tool_calls").value_or(true);
  try {
    c.chat = parse_chat_request(body);
  } catch (const Error& e) {
    throw invalid_param(e.what());
  }
  if (c.text.options.max_tokens < 1) throw invalid_param("max_tokens", "expected at least 1 for a message");
  return c;
}

}  // namespace sluice
