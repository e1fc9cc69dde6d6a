// sluice bench draft: what drafting with the MTP module brings, beside what it could bring. A pass of two tokens costs
// c2 passes of one, a draft c_mtp, and a share a of the drafts is right: at best, drafting is (1 + a) / (c2 + c_mtp)
// times as fast as plain decoding.
#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/rng.h"
#include "cli/bench.h"
#include "cli/inference.h"
#include "engine/sampler.h"

namespace sluice {
namespace {

constexpr int64_t kPromptTokens = 64;
constexpr double kLeastDistinct = 0.8;  // a text that repeats itself more is easier to draft than any that is of use
constexpr Draft kDrafts[] = {Draft::off, Draft::on, Draft::automatic};

struct Options {
  InferenceOptions inference;
  std::string prompts;
  int64_t texts = 8, tokens = 256, runs = 3;
  std::optional<float> temperature;
  bool json = false;
};

using Ids = std::vector<int32_t>;

/// Pieces of a text, evenly spread over it; without one, random tokens.
std::vector<Ids> make_prompts(const Inference& inference, const Options& o) {
  std::vector<Ids> prompts(static_cast<size_t>(o.texts));
  if (o.prompts.empty()) {
    Rng rng(1);
    for (Ids& p : prompts)
      for (int64_t i = 0; i < kPromptTokens; ++i)
        p.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(inference.engine->config().vocab_size))));
    return prompts;
  }
  const Ids text = inference.encode(read_file(o.prompts), false);
  const int64_t spare = static_cast<int64_t>(text.size()) - kPromptTokens;
  if (spare < 0) fail("{}: expected at least {} tokens, found {}", o.prompts, kPromptTokens, text.size());
  for (int64_t i = 0; i < o.texts; ++i) {
    const auto begin = text.begin() + spare * i / o.texts;
    prompts[static_cast<size_t>(i)].assign(begin, begin + kPromptTokens);
  }
  return prompts;
}

/// The share of different ones among all runs of four tokens.
double distinct_4(const Ids& ids) {
  if (ids.size() < 4) return 1;
  std::set<Ids> runs;
  for (auto i = ids.begin(); i + 4 <= ids.end(); ++i) runs.insert(Ids(i, i + 4));
  return static_cast<double>(runs.size()) / static_cast<double>(ids.size() - 3);
}

/// The times of a pass of one token, and of one of two tokens and the draft after it when the second token, a draft,
/// was wrong [0] or right [1]: then the MTP module has two tokens to read. All with the choice of the tokens.
struct Costs {
  std::vector<double> one, two[2], draft[2];
};

/// Reads `text` after `prompt` as decoding with drafts does.
void measure_costs(Engine& engine, const Ids& prompt, const Ids& text, const GenerateOptions& g, Costs& costs) {
  TokenSampler sampler(engine.stream(), g.rule, g.seed, g.vocab_limit);
  Session session(engine, true);
  session.feed(prompt, 0);
  session.draft(text[0]);
  const auto pass = [&](size_t at, size_t tokens, int64_t chosen) {
    return seconds_of([&] {
      const Tensor logits = session.feed(std::span(&text[at], tokens), static_cast<int64_t>(tokens), RowKind::text);
      for (int64_t i = 0; i < chosen; ++i) sampler.choose(logits.slice_rows(i, 1), session.length() + i);
    });
  };
  for (size_t at = 0; at + 2 < text.size();) {
    const int64_t right = at % 3 > 0, length = session.length();
    costs.one.push_back(pass(at, 1, 1));
    session.truncate(length);
    costs.two[right].push_back(pass(at, 2, 1 + right));
    session.truncate(length + 1 + right);
    at += static_cast<size_t>(1 + right);
    costs.draft[right].push_back(seconds_of([&] { sampler.choose(session.draft(text[at]), session.length() + 1); }));
  }
}

/// Sums over the texts of one temperature that do not repeat themselves.
struct Sums {
  int64_t texts = 0, repeating = 0, gave_up = 0;  // gave_up: ended with automatic drafting measured to be slower
  int64_t proposed = 0, accepted = 0;             // of Draft::on
  std::vector<double> on, automatic;              // speed beside plain decoding right before or after
  Costs costs;
};

class TextBench {
 public:
  TextBench(Engine& engine, const Options& o, const GenerateOptions& generate)
      : engine_(engine), o_(o), generate_(generate) {}

  /// Writes with every way of drafting in turn.
  void add(const Ids& prompt) {
    const Ids expected = write(prompt, Draft::off).text;
    if (distinct_4(expected) < kLeastDistinct) {
      ++sums_.repeating;
      return;
    }
    for (int64_t run = 0; run < o_.runs; ++run) {
      double seconds[std::size(kDrafts)];
      for (size_t i = 0; i < std::size(kDrafts); ++i) {
        const size_t way = (i + static_cast<size_t>(run)) % std::size(kDrafts);
        const Written w = write(prompt, kDrafts[way]);
        check(w.text == expected, "bench draft: expected the same text with drafts");
        seconds[way] = w.result.seconds;
        if (run > 0) continue;
        sums_.gave_up += w.result.measured_slower;
        if (kDrafts[way] != Draft::on) continue;
        sums_.proposed += w.result.proposed;
        sums_.accepted += w.result.accepted;
      }
      sums_.on.push_back(seconds[0] / seconds[1]);
      sums_.automatic.push_back(seconds[0] / seconds[2]);
    }
    measure_costs(engine_, prompt, expected, generate_, sums_.costs);
    ++sums_.texts;
  }
  const Sums& sums() const { return sums_; }

 private:
  struct Written {
    Ids text;
    GenerateResult result;
  };
  Written write(const Ids& prompt, Draft draft) {
    Session session(engine_, draft != Draft::off);
    generate_.draft = draft;
    Written w;
    w.result = generate(session, prompt, generate_, [&](int32_t id) {
      w.text.push_back(id);
      return true;
    });
    return w;
  }

  Engine& engine_;
  const Options& o_;
  GenerateOptions generate_;
  Sums sums_;
};

struct Figures {
  double acceptance, two, draft, roof, on, automatic;
};

Figures figures(const Sums& s) {
  Figures f;
  f.acceptance = static_cast<double>(s.accepted) / static_cast<double>(s.proposed);
  const double one = median(s.costs.one);
  const auto mean = [&](const std::vector<double>(&v)[2]) {
    return ((1 - f.acceptance) * median(v[0]) + f.acceptance * median(v[1])) / one;
  };
  f.two = mean(s.costs.two);
  f.draft = mean(s.costs.draft);
  f.roof = (1 + f.acceptance) / (f.two + f.draft);
  f.on = median(s.on);
  f.automatic = median(s.automatic);
  return f;
}

void report(const Options& o, float temperature, const Sums& s) {
  JsonObject j;
  j.add("test", "draft").add("model", o.inference.model).add("temperature", temperature);
  j.add("texts", s.texts).add("repeating", s.repeating);
  if (!o.json)
    fmt::print("temperature {}: {} texts, {} more repeat themselves and do not count\n", temperature, s.texts,
               s.repeating);
  if (s.texts > 0) {
    const Figures f = figures(s);
    j.add("acceptance", f.acceptance).add("two_token_pass", f.two).add("draft_step", f.draft).add("roof", f.roof);
    j.add("on", f.on).add("auto", f.automatic).add("gave_up", s.gave_up);
    if (!o.json)
      fmt::print(
          "  {:.1f}% of {} drafts accepted; a pass of 2 tokens costs {:.3f} of one of 1, a draft {:.3f}; roof {:.3f}\n"
          "  on {:.3f} times plain, auto {:.3f} ({:.0f}% of {}), found to be slower in {} texts\n",
          100 * f.acceptance, s.proposed, f.two, f.draft, f.roof, f.on, f.automatic,
          100 * f.automatic / std::max(1.0, f.roof), f.roof > 1 ? "the roof" : "plain", s.gave_up);
  }
  if (o.json) fmt::print("{}\n", j.str());
}

void bench_draft(const Options& o) {
  InferenceOptions options = o.inference;
  options.context = kPromptTokens + 1 + o.tokens;  // and a begin token
  const Inference inference = open_inference(options);
  if (!inference.engine->has_mtp()) fail("{}: expected a model with an MTP module", inference.path.string());
  const std::vector<Ids> prompts = make_prompts(inference, o);
  GenerateOptions generate;
  generate.max_tokens = o.tokens;
  generate.vocab_limit =
      inference.tokenizer ? inference.tokenizer->vocab_size() : inference.engine->config().vocab_size;
  const std::vector<float> both = {0, 0.8f};
  for (const float temperature : o.temperature ? std::vector<float>{*o.temperature} : both) {
    generate.rule.temperature = temperature;
    TextBench bench(*inference.engine, o, generate);
    for (const Ids& prompt : prompts) bench.add(prompt);
    report(o, temperature, bench.sums());
  }
}

}  // namespace

void add_bench_draft_command(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand("draft", "What drafting with the MTP module brings");
  const CLI::Range count(int64_t{1}, int64_t{1} << 20);
  c->add_option("--model", o->inference.model, "checkpoint folder or GGUF file")->required();
  c->add_option("--threads", o->inference.threads, "0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  c->add_option(
      "--prompts", o->prompts,
      fmt::format("a text; pieces of {} tokens of it are the prompts (default: random tokens)", kPromptTokens));
  c->add_option("--texts", o->texts, "prompts")->check(count)->capture_default_str();
  c->add_option("--tokens", o->tokens, "tokens of each text")
      ->check(CLI::Range(int64_t{8}, int64_t{1} << 20))
      ->capture_default_str();
  c->add_option("--temperature", o->temperature, "default: 0 and then 0.8")->check(CLI::Range(0.0, 100.0));
  c->add_option("--runs", o->runs, "measurements of each text; the median of all counts")
      ->check(count)
      ->capture_default_str();
  c->add_flag("--json", o->json, "one JSON object per temperature");
  c->footer("Example: sluice bench draft --model out/demo/run --prompts held-out.txt");
  c->callback([o] { bench_draft(*o); });
}

}  // namespace sluice
