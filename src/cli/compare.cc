// sluice compare: how far a model in fewer bits, or in another format, is from a reference on a text.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "cli/commands.h"
#include "cli/inference.h"
#include "cli/text_reader.h"
#include "formats/gguf.h"
#include "cli/work_line.h"

namespace sluice {
namespace {

struct CompareOptions {
  InferenceOptions inference;
  std::string reference, data;
  bool json = false;
};

/// The experts that an engine chooses for each row, of all layers one after another.
class Choices {
 public:
  explicit Choices(Engine& engine) {
    engine.observe_routing([this](const Tensor& choice_TK, const Matrix& router) { add(choice_TK, router.data); });
  }
  void clear() { rows_.clear(), pass_ = 0; }
  /// Of the i-th of the last `n` rows; empty for a model without experts.
  std::span<const int32_t> of(int64_t i, int64_t n) const {
    if (rows_.empty()) return {};
    return rows_[rows_.size() - static_cast<size_t>(n - i)];
  }

 private:
  void add(const Tensor& choice_TK, const void* layer) {
    if (!first_layer_) first_layer_ = layer;
    if (layer == first_layer_) {
      pass_ = rows_.size();
      rows_.resize(pass_ + static_cast<size_t>(choice_TK.rows()));
    }
    for (int64_t t = 0; t < choice_TK.rows(); ++t) {
      const int32_t* chosen = static_cast<const int32_t*>(choice_TK.at(t));
      std::vector<int32_t>& row = rows_[pass_ + static_cast<size_t>(t)];
      row.insert(row.end(), chosen, chosen + choice_TK.cols());
      std::sort(row.end() - choice_TK.cols(), row.end());  // the order of the chosen changes nothing but their weights
    }
  }

  const void* first_layer_ = nullptr;
  std::vector<std::vector<int32_t>> rows_;
  size_t pass_ = 0;  // first row of the present pass
};

/// What is compared at one token, or summed over some.
struct Difference {
  double loss = 0, reference_loss = 0;  // of the token that follows
  double divergence = 0;                // sum of p log(p / q), p of the reference
  double error = 0, square = 0;         // of the logits and of the reference's
  int64_t tokens = 0, same_top = 0;

  Difference& operator+=(const Difference& d) {
    loss += d.loss, reference_loss += d.reference_loss, divergence += d.divergence;
    error += d.error, square += d.square, tokens += d.tokens, same_top += d.same_top;
    return *this;
  }
};

double log_sum_exp(const float* x, int64_t n) {
  const double most = static_cast<double>(*std::max_element(x, x + n));
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - most);
  return most + std::log(sum);
}

/// `target`: the id that follows; -1 where none does.
Difference difference(const float* x, const float* reference, int64_t V, int32_t target) {
  const double log_sum = log_sum_exp(x, V), reference_log_sum = log_sum_exp(reference, V);
  Difference d;
  d.tokens = 1;
  d.same_top = std::max_element(x, x + V) - x == std::max_element(reference, reference + V) - reference;
  for (int64_t i = 0; i < V; ++i) {
    const double a = static_cast<double>(x[i]), r = static_cast<double>(reference[i]);
    d.error += (a - r) * (a - r);
    d.square += r * r;
    d.divergence += std::exp(r - reference_log_sum) * ((r - reference_log_sum) - (a - log_sum));
  }
  if (target >= 0) {
    d.loss = log_sum - static_cast<double>(x[target]);
    d.reference_loss = reference_log_sum - static_cast<double>(reference[target]);
  }
  return d;
}

/// Over all tokens of the text, and over those for which both models choose the same experts in every layer.
struct Result {
  Difference all, agreeing;
};

Result compare(const Inference& model, const Inference& reference, const std::vector<int32_t>& ids) {
  Choices choices(*model.engine), reference_choices(*reference.engine);
  TextReader reader(*model.engine, ids), reference_reader(*reference.engine, ids);
  WorkLine line("compare", "tokens", static_cast<int64_t>(ids.size()));
  std::vector<Difference> rows;
  Result result;
  while (const auto read = reader.next()) {
    const Tensor logits = read->logits, expected = reference_reader.next()->logits;
    const int64_t n = logits.rows();
    rows.assign(static_cast<size_t>(n), {});
    parallel_for(*model.stream, n, 1, [&](int64_t t, int64_t, int) {
      const size_t next = static_cast<size_t>(read->begin + t + 1);
      rows[static_cast<size_t>(t)] =
          difference(static_cast<const float*>(logits.at(t)), static_cast<const float*>(expected.at(t)), logits.cols(),
                     next < ids.size() ? ids[next] : -1);
    });
    for (int64_t t = 0; t < n; ++t) {
      const auto a = choices.of(t, n), b = reference_choices.of(t, n);
      result.all += rows[static_cast<size_t>(t)];
      if (std::equal(a.begin(), a.end(), b.begin(), b.end())) result.agreeing += rows[static_cast<size_t>(t)];
    }
    choices.clear(), reference_choices.clear();
    line.add(n);
  }
  return result;
}

double share(int64_t part, int64_t all) { return static_cast<double>(part) / static_cast<double>(all); }
double nmse(const Difference& d) { return d.error / d.square; }

void print(const Result& r, bool json) {
  const Difference& all = r.all;
  const double predicted = static_cast<double>(all.tokens - 1), perplexity = std::exp(all.loss / predicted),
               reference_perplexity = std::exp(all.reference_loss / predicted),
               divergence = all.divergence / static_cast<double>(all.tokens);
  if (json) {
    JsonObject j;
    j.add("tokens", all.tokens).add("perplexity", perplexity).add("reference_perplexity", reference_perplexity);
    j.add("kl", divergence).add("same_top", share(all.same_top, all.tokens)).add("nmse", nmse(all));
    j.add("experts_agree", share(r.agreeing.tokens, all.tokens));
    if (r.agreeing.tokens > 0) j.add("nmse_where_experts_agree", nmse(r.agreeing));
    fmt::print("{}\n", j.str());
    return;
  }
  fmt::print("{} tokens, perplexity {:.4f}, the reference's {:.4f}\n", all.tokens, perplexity, reference_perplexity);
  fmt::print("KL divergence {:.3g}, same most probable token {:.2f}%, NMSE of the logits {:.3g}\n", divergence,
             100 * share(all.same_top, all.tokens), nmse(all));
  fmt::print("same experts in all layers for {:.2f}% of the tokens", 100 * share(r.agreeing.tokens, all.tokens));
  if (r.agreeing.tokens > 0) fmt::print(", NMSE there {:.3g}", nmse(r.agreeing));
  fmt::print("\n");
}

void run_compare(const CompareOptions& o) {
  const Inference model = open_inference(o.inference);
  InferenceOptions options = o.inference;
  options.model = o.reference;
  options.context = model.engine->context();        // the same windows
  if (!find_gguf(o.reference)) options.memory = 0;  // folders are held in memory whole
  const Inference reference = open_inference(options);
  const int64_t V = model.engine->config().vocab_size;
  if (reference.engine->config().vocab_size != V)
    fail("--reference: expected a vocabulary of {}, as --model has, found {}", V,
         reference.engine->config().vocab_size);
  const std::vector<int32_t> ids = model.encode(read_file(o.data), false);
  if (ids.size() < 2) fail("{}: expected at least 2 tokens, found {}", o.data, ids.size());
  print(compare(model, reference, ids), o.json);
}

}  // namespace

void add_compare_command(CLI::App& app) {
  const auto o = std::make_shared<CompareOptions>();
  CLI::App* c = app.add_subcommand("compare", "How far a model is from a reference on a text");
  add_inference_options(*c, o->inference);
  c->add_option("--reference", o->reference, "checkpoint folder, training run or GGUF file")->required();
  c->add_option("--data", o->data, "the text")->required();
  c->add_flag("--json", o->json, "one JSON object");
  c->footer("Example: sluice compare --model demo-q4_k.gguf --reference out/demo/run --data held-out.txt");
  c->callback([o] { run_compare(*o); });
}

}  // namespace sluice
