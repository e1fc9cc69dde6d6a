#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {
namespace {

const std::vector<double> kFirstTokenBounds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                               1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
const std::vector<double> kTokenBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
                                          0.3,   0.4,    0.5,   0.75, 1,     2.5,  5,     7.5, 10,   20};
const std::vector<double> kRequestBounds = {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,
                                            10,   15,   20,  30,  40,  50,  60, 120, 240, 480, 960};
const std::vector<double> kCountBounds = {1,   2,    5,    10,   20,    50,    100,   200,
                                          500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
constexpr const char* kEndNames[kNumEndReasons] = {"stop", "length", "abort", "error"};

/// A label's value.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

void describe(std::string& out, const char* name, const char* type, const char* help) {
  out += fmt::format("# HELP sluice_{0} {2}\n# TYPE sluice_{0} {1}\n", name, type, help);
}

void sample(std::string& out, const char* name, const std::string& labels, double value) {
  out += fmt::format("sluice_{}{{{}}} {}\n", name, labels, value);
}

struct Plain {
  const char *name, *type, *help;
  double value;
};

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

void write_scheduler(std::string& out, const SchedulerStats& s, const std::string& labels) {
  const auto count = [](int64_t n) { return static_cast<double>(n); };
  const Plain values[] = {
      {"num_requests_running", "gauge", "Texts that are being written.", count(s.running)},
      {"num_requests_waiting", "gauge", "Texts that wait in the queue.", count(s.waiting)},
      {"kv_cache_usage_perc", "gauge", "Share of the KV cache that running texts hold, 1 being all of it.",
       share(s.pages_used, s.pages)},
      {"kv_cache_idle_perc", "gauge", "Share of the KV cache that holds prefixes nobody uses now.",
       share(s.pages_idle, s.pages)},
      {"prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.", count(s.cache_queried)},
      {"prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", count(s.cache_hit)},
      {"prefix_cache_disk_hits_total", "counter", "Prompt tokens found in the prefix cache on disk.",
       count(s.disk_hit)},
      {"num_preemptions_total", "counter", "Times a text gave up its memory, to be computed again.",
       count(s.preemptions)},
      {"recomputed_tokens_total", "counter", "Tokens computed again after preemption.", count(s.recomputed_tokens)},
      {"prompt_tokens_total", "counter", "Prompt tokens computed.", count(s.prompt_tokens)},
      {"generation_tokens_total", "counter", "Tokens written.", count(s.text_tokens)},
      {"engine_passes_total", "counter", "Passes over the model.", count(s.passes)},
      {"spec_decode_num_draft_tokens_total", "counter", "Tokens drafted.", count(s.proposed)},
      {"spec_decode_num_accepted_tokens_total", "counter", "Drafted tokens that the model chose too.",
       count(s.accepted)},
  };
  for (const Plain& v : values) {
    describe(out, v.name, v.type, v.help);
    sample(out, v.name, labels, v.value);
  }
  describe(out, "expert_tokens_total", "counter", "How often each expert of a layer was chosen.");
  for (const ExpertLoad& load : s.expert_load)
    for (size_t e = 0; e < load.tokens.size(); ++e)
      sample(out, "expert_tokens_total", fmt::format("{},layer=\"{}\",expert=\"{}\"", labels, load.layer, e),
             count(load.tokens[e]));
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::observe(double value) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<size_t>(at - bounds_.begin())];
  sum_ += value;
}

void Histogram::write(std::string& out, const std::string& name, const std::string& labels) const {
  int64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bound, total);
  }
  out += fmt::format("{0}_sum{{{1}}} {2}\n{0}_count{{{1}}} {3}\n", name, labels, sum_, total);
}

Metrics::Metrics()
    : first_token_(kFirstTokenBounds),
      between_tokens_(kTokenBounds),
      per_token_(kTokenBounds),
      whole_(kRequestBounds),
      queue_(kRequestBounds),
      inference_(kRequestBounds),
      prefill_(kRequestBounds),
      decode_(kRequestBounds),
      prompt_tokens_(kCountBounds),
      text_tokens_(kCountBounds),
      max_tokens_(kCountBounds) {}

void Metrics::token_gap(double seconds) {
  const std::lock_guard lock(mutex_);
  between_tokens_.observe(seconds);
}

void Metrics::finished(const RequestResult& r, EndReason reason, int64_t max_tokens) {
  const std::lock_guard lock(mutex_);
  ++ended_[static_cast<size_t>(reason)];
  if (reason == EndReason::abort || reason == EndReason::error) return;
  whole_.observe(r.seconds);
  queue_.observe(r.queue_seconds);
  inference_.observe(r.seconds - r.queue_seconds);
  prompt_tokens_.observe(static_cast<double>(r.prompt_tokens));
  text_tokens_.observe(static_cast<double>(r.tokens));
  max_tokens_.observe(static_cast<double>(max_tokens));
  if (r.tokens == 0) return;
  first_token_.observe(r.first_token_seconds);
  prefill_.observe(r.first_token_seconds - r.queue_seconds);
  decode_.observe(r.seconds - r.first_token_seconds);
  if (r.tokens > 1) per_token_.observe((r.seconds - r.first_token_seconds) / static_cast<double>(r.tokens - 1));
}

void Metrics::response(int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[std::min<size_t>(static_cast<size_t>(status / 100), responses_.size() - 1)];
}

std::string Metrics::text(const std::string& model, const SchedulerStats* stats, size_t connections,
                          size_t grammar_bytes) const {
  const std::string labels = "model_name=" + quoted(model);
  std::string out;
  if (stats) write_scheduler(out, *stats, labels);
  const std::lock_guard lock(mutex_);
  write_counts(out, labels);
  describe(out, "http_connections", "gauge", "Open connections.");
  sample(out, "http_connections", labels, static_cast<double>(connections));
  describe(out, "grammar_cache_bytes", "gauge", "Memory of compiled grammars, for schemas that may come again.");
  sample(out, "grammar_cache_bytes", labels, static_cast<double>(grammar_bytes));
  write_histograms(out, labels);
  return out;
}

void Metrics::write_counts(std::string& out, const std::string& labels) const {
  describe(out, "request_success_total", "counter", "Texts that have ended, by reason.");
  for (size_t i = 0; i < kNumEndReasons; ++i)
    sample(out, "request_success_total", fmt::format("{},finished_reason=\"{}\"", labels, kEndNames[i]),
           static_cast<double>(ended_[i]));
  describe(out, "http_responses_total", "counter", "Responses by class of status.");
  for (size_t i = 2; i < responses_.size(); ++i)
    sample(out, "http_responses_total", fmt::format("{},status=\"{}xx\"", labels, i),
           static_cast<double>(responses_[i]));
}

void Metrics::write_histograms(std::string& out, const std::string& labels) const {
  const struct {
    const char *name, *help;
    const Histogram& histogram;
  } all[] = {
      {"time_to_first_token_seconds", "From submission to the first token.", first_token_},
      {"inter_token_latency_seconds", "Between two tokens of a text.", between_tokens_},
      {"request_time_per_output_token_seconds", "Mean time per token after the first, by text.", per_token_},
      {"e2e_request_latency_seconds", "From submission to the last token.", whole_},
      {"request_queue_time_seconds", "From submission until the text runs.", queue_},
      {"request_inference_time_seconds", "From then on to the last token.", inference_},
      {"request_prefill_time_seconds", "From then on to the first token.", prefill_},
      {"request_decode_time_seconds", "From the first token to the last.", decode_},
      {"request_prompt_tokens", "Tokens of prompts.", prompt_tokens_},
      {"request_generation_tokens", "Tokens of texts.", text_tokens_},
      {"request_params_max_tokens", "Most tokens that were asked for.", max_tokens_},
  };
  for (const auto& h : all) {
    describe(out, h.name, "histogram", h.help);
    h.histogram.write(out, std::string("sluice_") + h.name, labels);
  }
}

}  // namespace sluice
