// The endpoints of the service that need no engine.
#include <ctime>

#include "base/error.h"
#include "chat/prompt.h"
#include "serve/page.h"
#include "serve/service_call.h"

namespace sluice {
namespace {

constexpr const char* kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

OrderedJson describe_model(const ServedModel& model, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "sluice"},
          {"root", model.names.front()},
          {"max_model_len", model.context},
          {"chat", !model.chat.is_base()}};
}

/// %2F and the like; what is not of that form stays as it is.
std::string percent_decoded(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool coded = text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0;
    out += coded ? static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2])) : text[i];
    if (coded) i += 2;
  }
  return out;
}

HttpResponse json_response(const OrderedJson& body) { return {200, kJsonType, json_text(body)}; }

/// /tokenize and /detokenize take more than fits into the context, so that clients see how much too long a text is, but
/// not any amount.
constexpr int64_t kMostContexts = 4;
constexpr int64_t kBytesPerToken = 8;  // of the longest text, on average; JSON and its escapes included

void check_tokens(size_t count, const ServedModel& model) {
  const int64_t most = kMostContexts * model.context;
  if (static_cast<int64_t>(count) > most)
    throw invalid_param(
        "tokens", fmt::format("expected at most {} ids, {} times the context, found {}", most, kMostContexts, count));
}

void check_bytes(const char* param, size_t bytes, const ServedModel& model) {
  const int64_t most = kMostContexts * kBytesPerToken * model.context;
  if (static_cast<int64_t>(bytes) > most)
    throw invalid_param(param, fmt::format("expected at most {} bytes, {} for each token of the context, found {}",
                                           most, kMostContexts * kBytesPerToken, bytes));
}

/// The ids of `messages` as a chat completion would have them.
std::vector<int32_t> chat_ids(const ServedModel& model, const OrderedJson& body) {
  try {
    return encode_prompt(model.chat, model.tokenizer, parse_chat_request(body), std::time(nullptr)).ids;
  } catch (const Error& e) {
    throw invalid_param(e.what());
  }
}

std::vector<int32_t> parse_tokens(const Fields& body, const ServedModel& model) {
  const OrderedJson* tokens = body.find("tokens");
  if (!tokens || !tokens->is_array()) throw invalid_param("tokens", "expected token ids");
  check_tokens(tokens->size(), model);
  std::vector<int32_t> ids;
  for (const OrderedJson& id : *tokens) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      throw invalid_param("tokens", "expected token ids, found " + json_excerpt(id));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

void Service::health(const Call& call) {
  need_model();
  send(call, json_response({{"status", "ok"}}));
}

void Service::models(const Call& call) {
  const ServedModel& model = need_model();
  OrderedJson data = OrderedJson::array();
  for (const std::string& name : model.names) data.push_back(describe_model(model, name));
  send(call, json_response({{"object", "list"}, {"data", std::move(data)}}));
}

void Service::model(const Call& call) {
  const ServedModel& model = need_model();
  const std::string name =
      percent_decoded(std::string_view(call.request.path).substr(std::string("/v1/models/").size()));
  check_model_name(model, name);
  send(call, json_response(describe_model(model, name.empty() ? model.names.front() : name)));
}

void Service::metrics(const Call& call) {
  const ServedModel* model = model_;
  const size_t connections = options_.connections ? options_.connections() : 0;
  if (!model) return send(call, {200, kMetricsType, metrics_.text("", nullptr, connections, grammars_.bytes())});
  const SchedulerStats stats = model->texts->stats();
  send(call, {200, kMetricsType, metrics_.text(model->names.front(), &stats, connections, grammars_.bytes())});
}

void Service::tokenize(const Call& call) {
  const ServedModel& model = need_model();
  const OrderedJson json = parse_body(call.request.body);
  const Fields body(json);
  std::vector<int32_t> ids;
  if (body.find("messages")) {
    check_bytes("messages", call.request.body.size(), model);
    ids = chat_ids(model, json);
  } else {
    const auto text = body.text("prompt");
    if (!text) throw invalid_param("prompt", "expected a string, or messages");
    check_bytes("prompt", text->size(), model);
    ids = encode_prompt(model, *text, "prompt");
    const bool begun = model.tokenizer.add_bos() && !body.boolean("add_special_tokens").value_or(true);
    if (begun) ids.erase(ids.begin());
  }
  OrderedJson response = {{"count", ids.size()}, {"max_model_len", model.context}, {"tokens", ids}};
  if (body.boolean("return_token_strs").value_or(false)) {
    OrderedJson texts = OrderedJson::array();
    for (const int32_t id : ids) texts.push_back(shown_token(model.tokenizer.token_bytes(id)));
    response["token_strs"] = std::move(texts);
  }
  send(call, json_response(response));
}

void Service::detokenize(const Call& call) {
  const ServedModel& model = need_model();
  const OrderedJson json = parse_body(call.request.body);
  const std::vector<int32_t> ids = parse_tokens(Fields(json), model);
  send(call, json_response({{"prompt", shown_token(model.tokenizer.decode(ids, false))}}));
}

/// Newer and other APIs, whose clients get this line to read.
void Service::elsewhere(const Call& call) {
  throw ApiError(404, "invalid_request_error",
                 fmt::format("{} is not served here: use POST /v1/chat/completions", call.request.path), "",
                 "unknown_url");
}

void Service::page(const Call& call) {
  const PageFile& file = *find_page_file(call.request.path);
  HttpResponse r{200, std::string(file.mime_type), std::string(file.content)};
  if (call.request.header("if-none-match") == file.etag) r = {304, "", ""};
  r.headers = {{"ETag", std::string(file.etag)},
               {"Cache-Control", std::string(kPageCacheControl)},
               {"Content-Security-Policy", std::string(kPageSecurityPolicy)},
               {"X-Content-Type-Options", "nosniff"}};
  send(call, std::move(r));
}

void Service::preflight(const Call& call) {
  HttpResponse r{204, "", ""};
  r.headers = {{"Access-Control-Allow-Methods", "GET, POST"},
               {"Access-Control-Allow-Headers", "*, Authorization"},
               {"Access-Control-Max-Age", "600"}};
  send(call, std::move(r));
}

}  // namespace sluice
