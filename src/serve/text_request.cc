#include "serve/text_request.h"

#include <fmt/format.h>

#include <charconv>
#include <random>

#include "base/rng.h"
#include "serve/api_error.h"

namespace sluice {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;

void parse_rule(const Fields& body, SamplingRule& rule) {
  const auto set = [&](float& value, const char* name, double low, double high) {
    if (const auto given = body.number(name, low, high)) value = static_cast<float>(*given);
  };
  set(rule.temperature, "temperature", 0, 2);
  set(rule.top_p, "top_p", 0, 1);
  set(rule.min_p, "min_p", 0, 1);
  set(rule.repetition_penalty, "repetition_penalty", 1e-3, 1e3);
  set(rule.frequency_penalty, "frequency_penalty", -2, 2);
  set(rule.presence_penalty, "presence_penalty", -2, 2);
  if (rule.top_p <= 0) rule.top_p = 1e-6f;  // 0 is in OpenAI's range: the most probable token
  // -1 is vLLM's word for no limit.
  if (const auto k = body.integer("top_k", -1, kMostTokens)) rule.top_k = std::max<int64_t>(*k, 0);
}

/// {"id": bias, ...}; the ids are JSON's keys, hence text.
std::vector<LogitBias> parse_logit_bias(const Fields& body, int64_t vocab) {
  std::vector<LogitBias> list;
  const auto biases = body.object("logit_bias");
  if (!biases) return list;
  for (const auto& [key, value] : biases->json().items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab)
      throw invalid_param("logit_bias",
                          fmt::format("expected token ids from 0 to {}, found {}", vocab - 1, json_excerpt(key)));
    if (const auto bias = biases->number(key.c_str(), -100, 100)) list.push_back({id, static_cast<float>(*bias)});
  }
  return list;
}

std::vector<std::string> parse_stops(const Fields& body) {
  std::vector<std::string> stops;
  const OrderedJson* stop = body.find("stop");
  if (!stop) return stops;
  const std::string expected =
      fmt::format("expected a string or up to {} strings of 1 to {} bytes", kMostStops, kMostStopBytes);
  const auto add = [&](const OrderedJson& one) {
    if (!one.is_string()) throw invalid_param("stop", expected + ", found " + json_excerpt(one));
    const auto& text = one.get_ref<const std::string&>();
    if (text.empty() || text.size() > kMostStopBytes)
      throw invalid_param("stop", fmt::format("{}, found one of {}", expected, text.size()));
    stops.push_back(text);
  };
  if (!stop->is_array()) {
    add(*stop);
  } else {
    if (stop->size() > kMostStops) throw invalid_param("stop", fmt::format("{}, found {}", expected, stop->size()));
    for (const OrderedJson& one : *stop) add(one);
  }
  return stops;
}

/// `max_completion_tokens` is the newer name of `max_tokens`.
void parse_length(const Fields& body, int64_t& max_tokens) {
  const auto older = body.integer("max_tokens", 0, kMostTokens);
  const auto newer = body.integer("max_completion_tokens", 0, kMostTokens);
  if (older && newer && *older != *newer)
    throw invalid_param("max_completion_tokens", "expected the value of max_tokens, or one of the two alone");
  if (older || newer) max_tokens = newer ? *newer : *older;
}

/// The queue remembers users that have gone, so that their names are short.
std::string parse_user(const Fields& body) {
  std::string user = body.text("user").value_or("");
  if (user.size() > kMostUserBytes)
    throw invalid_param("user", fmt::format("expected at most {} bytes, found {}", kMostUserBytes, user.size()));
  return user;
}

uint64_t parse_seed(const Fields& body) {
  const auto seed = body.integer("seed", INT64_MIN, INT64_MAX);
  return seed ? static_cast<uint64_t>(*seed) : std::random_device()();
}

}  // namespace

GenerateOptions TextRequest::options_of(int64_t index) const {
  GenerateOptions o = options;
  if (index > 0) o.seed = mix64(options.seed + static_cast<uint64_t>(index));
  return o;
}

TextRequest parse_text_request(const Fields& body, const GenerateOptions& defaults) {
  TextRequest r;
  r.model = body.text("model").value_or("");
  r.user = parse_user(body);
  r.options = defaults;
  parse_rule(body, r.options.rule);
  parse_length(body, r.options.max_tokens);
  r.options.logit_bias = parse_logit_bias(body, defaults.vocab_limit);
  r.options.seed = parse_seed(body);
  r.num_texts = body.integer("n", 1, kMostTexts).value_or(1);
  r.stops = parse_stops(body);
  r.stream = body.boolean("stream").value_or(false);
  if (const auto options = body.object("stream_options")) {
    if (!r.stream) throw invalid_param("stream_options", "expected only with stream: true");
    r.include_usage = options->boolean("include_usage").value_or(false);
  }
  return r;
}

}  // namespace sluice
