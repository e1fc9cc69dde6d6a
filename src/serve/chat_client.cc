#include "serve/chat_client.h"

#include "base/error.h"

namespace sluice {
namespace {

constexpr size_t kMostBody = 1 << 20;

/// The message of an error object, or what came instead of one.
std::string error_message(std::string_view body) {
  try {
    const Json error = parse_json_object(body, "server");
    return error.at("error").at("message").get<std::string>();
  } catch (const std::exception&) {
    return "expected an answer of OpenAI's API";
  }
}

/// A field that may be missing, or of another type.
int64_t count_field(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}

std::string text_field(const Json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

}  // namespace

AnswerEvents parse_chat_event(std::string_view data, ChatClientUsage& usage) {
  AnswerEvents events;
  if (data == "[DONE]") return events;
  const Json event = parse_json_object(data, "server");
  if (event.contains("error")) fail("server: {}", error_message(data));
  if (const auto u = event.find("usage"); u != event.end() && u->is_object()) {
    usage.prompt_tokens = count_field(*u, "prompt_tokens");
    usage.cached_tokens = count_field(*u, "prompt_cache_hit_tokens");
    usage.tokens = count_field(*u, "completion_tokens");
  }
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty()) return events;
  const auto delta = choices->front().find("delta");
  if (delta == choices->front().end() || !delta->is_object()) return events;
  if (std::string text = text_field(*delta, "reasoning_content"); !text.empty())
    events.push_back({AnswerEvent::Kind::reasoning, std::move(text)});
  if (std::string text = text_field(*delta, "content"); !text.empty())
    events.push_back({AnswerEvent::Kind::content, std::move(text)});
  return events;
}

ChatClient::ChatClient(ChatClientOptions options) : options_(std::move(options)), url_(parse_http_url(options_.url)) {
  std::string body;
  const int status = http_exchange(url_, request("GET", "/v1/models", ""), [&](std::string_view piece) {
    body += piece;
    return body.size() < kMostBody;
  });
  if (status != 200) fail("{}: {}", options_.url, error_message(body));
  const Json list = parse_json_object(body, options_.url);
  const auto data = list.find("data");
  if (data == list.end() || !data->is_array() || data->empty() || !data->front().is_object())
    fail("{}: expected a server with a model, found none", options_.url);
  model_ = json_string(data->front(), "id", options_.url);
  if (const auto chat = data->front().find("chat"); chat != data->front().end() && *chat == false)
    fail("{}: {} has no chat template: it completes texts", options_.url, model_);
}

ChatClientUsage ChatClient::answer(const OrderedJson& messages,
                                   const std::function<bool(const AnswerEvents&)>& receive) const {
  ChatClientUsage usage;
  std::string all;  // in case it is a refusal
  EventReader events;
  bool wanted = true;
  const auto take = [&](std::string_view piece) {
    if (all.size() < kMostBody) all += piece;
    if (piece.empty()) wanted = receive({});
    events.push(piece, [&](std::string_view data) {
      if (wanted) wanted = receive(parse_chat_event(data, usage));
    });
    return wanted;
  };
  const int status = http_exchange(url_, request("POST", "/v1/chat/completions", json_text(body(messages))), take);
  if (status != 200) fail("{}: {}", options_.url, error_message(all));
  return usage;
}

HttpRequest ChatClient::request(const std::string& method, const std::string& path, std::string text) const {
  HttpRequest r{method, path, {{"Content-Type", kJsonType}}, std::move(text)};
  if (!options_.key.empty()) r.headers.emplace_back("Authorization", "Bearer " + options_.key);
  return r;
}

OrderedJson ChatClient::body(const OrderedJson& messages) const {
  OrderedJson b = {
      {"model", model_}, {"messages", messages}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
  const auto add = [&](const char* name, const auto& value) {
    if (value) b[name] = *value;
  };
  add("temperature", options_.temperature);
  add("top_p", options_.top_p);
  add("min_p", options_.min_p);
  add("top_k", options_.top_k);
  add("repetition_penalty", options_.repetition_penalty);
  add("max_tokens", options_.max_tokens);
  add("seed", options_.seed);
  return b;
}

}  // namespace sluice
