#include "engine/generate.h"

#include <cmath>
#include <set>

#include "agreeing_model.h"
#include "engine/sampler.h"
#include "fixture.h"
#include "model/tiny_model.h"

namespace sluice::test {
namespace {

const std::vector<int32_t> kPrompt = {5, 6, 7, 90, 12};

std::vector<int32_t> text(Session& session, const GenerateOptions& options, GenerateResult* result = nullptr) {
  std::vector<int32_t> out;
  const GenerateResult r = generate(session, kPrompt, options, [&](int32_t id) {
    out.push_back(id);
    return true;
  });
  if (result) *result = r;
  return out;
}

GenerateOptions greedy(int64_t tokens, Draft draft) {
  GenerateOptions o;
  o.rule.temperature = 0;
  o.max_tokens = tokens;
  o.draft = draft;
  return o;
}

/// Ways to draft, in a session with the MTP module or without it.
struct Drafting {
  bool mtp;
  Draft draft;
};
constexpr Drafting kDraftings[] = {{false, Draft::on},   {false, Draft::automatic}, {false, Draft::lookup},
                                   {true, Draft::off},   {true, Draft::on},         {true, Draft::automatic},
                                   {true, Draft::lookup}};

/// Expects the text of `options` to be the same with every drafting; returns it. `sums`: of the results of kDraftings.
std::vector<int32_t> same_text(const Model& model, GenerateOptions options, std::vector<GenerateResult>& sums) {
  Engine engine(stream(2), model, {});
  Session plain(engine, false);
  options.draft = Draft::off;
  GenerateResult without;
  const std::vector<int32_t> expected = text(plain, options, &without);
  EXPECT_EQ(without.proposed, 0);
  sums.resize(std::size(kDraftings));
  for (size_t i = 0; i < std::size(kDraftings); ++i) {
    const Drafting& how = kDraftings[i];
    Engine other(stream(1), model, {});
    Session session(other, how.mtp);
    options.draft = how.draft;
    GenerateResult result;
    EXPECT_EQ(text(session, options, &result), expected) << "drafting " << i;
    EXPECT_EQ(result.finish, without.finish);
    EXPECT_EQ(result.tokens, without.tokens);
    EXPECT_LE(result.accepted, result.proposed);
    // The session holds prompt and text, but perhaps for its last token.
    std::vector<int32_t> all = kPrompt;
    all.insert(all.end(), expected.begin(), expected.end());
    EXPECT_GE(session.length() + 1, static_cast<int64_t>(all.size()));
    all.resize(static_cast<size_t>(session.length()));
    EXPECT_EQ(std::vector<int32_t>(session.ids().begin(), session.ids().end()), all) << "drafting " << i;
    sums[i].proposed += result.proposed;
    sums[i].accepted += result.accepted;
  }
  return expected;
}

TEST(Generate, GreedyTextIsTheSameWithDrafts) {
  for (const Model* model : {&golden_model("mtp"), &agreeing()}) {
    std::vector<GenerateResult> sums;
    EXPECT_EQ(same_text(*model, greedy(100, Draft::off), sums).size(), 100u);
    for (size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(sums[i].proposed > 0, kDraftings[i].draft != Draft::off) << i;
    if (model == &agreeing()) {
      EXPECT_GT(sums[4].accepted, 10);
      EXPECT_LT(sums[4].accepted, sums[4].proposed);  // both branches are taken
    }
  }
}

TEST(Generate, SampledTextIsTheSameWithDrafts) {
  SamplingRule cut, penalised;
  cut.temperature = .8f;
  cut.top_k = 5;
  cut.min_p = .05f;
  penalised.top_k = 8;
  penalised.repetition_penalty = 1.3f;
  std::vector<GenerateResult> sums;
  for (const SamplingRule& rule : {SamplingRule{}, cut, penalised})
    for (uint64_t seed = 0; seed < 8; ++seed) {
      GenerateOptions options;
      options.rule = rule;
      options.seed = seed;
      options.max_tokens = 60;
      options.vocab_limit = 100;
      std::vector<int32_t> t = same_text(agreeing(), options, sums);
      EXPECT_EQ(t.size(), 60u);
      EXPECT_LT(*std::max_element(t.begin(), t.end()), 100);
      options.stop_ids = {t[20], t[40]};
      EXPECT_LE(same_text(agreeing(), options, sums).size(), 20u);
    }
  for (const size_t i : {0, 2, 4, 6}) {
    EXPECT_GT(sums[i].accepted, 0) << i;
    EXPECT_LT(sums[i].accepted, sums[i].proposed) << i;
  }
  for (const size_t i : {2, 6}) {  // all three look up
    EXPECT_EQ(sums[i].proposed, sums[0].proposed) << i;
    EXPECT_EQ(sums[i].accepted, sums[0].accepted) << i;
  }
}

/// A head of this many ids is most of a small model.
constexpr int64_t kLargeVocab = 33000, kDrafted = 32768;

/// The ids that are not drafted are far more probable than their number says.
Model large_vocab_model() {
  HfConfig c = tiny_config();
  c.vocab_size = kLargeVocab;
  Model m = random_model(stream(2), c, 1);
  const Tensor head = m.weights.head.tensor();
  float* rest = static_cast<float*>(head.at(kDrafted));
  for (int64_t i = 0; i < (kLargeVocab - kDrafted) * c.hidden_size; ++i) rest[i] *= 1.6f;
  return m;
}

TEST(Generate, DraftsFrequentIdsAloneWhereTheVocabularyIsLarge) {
  const Model model = large_vocab_model();
  Engine engine(stream(2), model, {});
  ASSERT_EQ(engine.draft_vocab(), kDrafted);
  EXPECT_EQ(Engine(stream(1), golden_model("mtp"), {}).draft_vocab(), golden_model("mtp").config.vocab_size);
  for (const float temperature : {0.f, 1.f}) {
    GenerateOptions options = greedy(50, Draft::off);
    options.rule.temperature = temperature;
    options.rule.repetition_penalty = 1.2f;  // also for ids that have no logit in a draft
    int64_t tokens = 0, rare = 0;
    for (options.seed = 0; options.seed < 4; ++options.seed) {
      std::vector<GenerateResult> sums;
      const std::vector<int32_t> t = same_text(model, options, sums);
      EXPECT_GT(sums[4].proposed, 0);
      tokens += static_cast<int64_t>(t.size());
      rare += std::count_if(t.begin(), t.end(), [](int32_t id) { return id >= kDrafted; });
    }
    EXPECT_GT(rare, 0) << temperature;
    EXPECT_LT(rare, tokens) << temperature;
  }
}

/// The text by a plain loop: one token a pass, chosen by a new sampler that saw all of the text, or the prompt only.
std::vector<int32_t> plain_text(const Model& model, const GenerateOptions& options, bool sees_text) {
  Engine engine(stream(1), model, {});
  Session session(engine, false);
  std::vector<int32_t> ids = kPrompt;
  while (ids.size() < kPrompt.size() + static_cast<size_t>(options.max_tokens)) {
    session.truncate(0);
    TokenSampler sampler(engine.stream(), options.rule, options.seed, model.config.vocab_size);
    sampler.see(sees_text ? ids : kPrompt);
    ids.push_back(sampler.choose(session.feed(ids, 1), static_cast<int64_t>(ids.size())));
  }
  return {ids.begin() + static_cast<int64_t>(kPrompt.size()), ids.end()};
}

TEST(Generate, TextIsThatOfAPlainLoop) {
  Engine engine(stream(2), agreeing(), {});
  Session session(engine, true);
  int differences = 0;
  for (const float temperature : {0.f, .5f, 1.f}) {
    GenerateOptions options = greedy(40, Draft::on);
    options.rule.temperature = temperature;
    options.rule.repetition_penalty = 1.5f;
    options.seed = 3;
    const std::vector<int32_t> t = text(session, options);
    EXPECT_EQ(t, plain_text(agreeing(), options, true)) << temperature;
    differences += t != plain_text(agreeing(), options, false);
  }
  EXPECT_GT(differences, 0);  // the penalty for the text's own tokens was put to the test
}

TEST(Generate, DraftsAreChosenByTheRaceOfTheirPosition) {
  // By another race the two would agree in sum p q of the cases.
  Engine engine(stream(2), agreeing(), {});
  Session session(engine, true), plain(engine, true);
  int64_t accepted = 0, proposed = 0;
  double expected = 0, positions = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    GenerateOptions options = greedy(60, Draft::on);
    options.rule = {};
    options.seed = seed;
    GenerateResult result;
    const std::vector<int32_t> t = text(session, options, &result);
    accepted += result.accepted;
    proposed += result.proposed;
    plain.truncate(0);
    plain.feed(kPrompt, 0);
    for (const int32_t id : t) {
      const Tensor q = plain.draft(id), p = plain.feed(std::span(&id, 1), 1);
      double overlap = 0;
      sampling_distribution(engine.stream(), q, q, q.cols(), options.rule);
      sampling_distribution(engine.stream(), p, p, p.cols(), options.rule);
      for (int64_t i = 0; i < q.cols(); ++i) overlap += static_cast<double>(std::min(p.f32()[i], q.f32()[i]));
      expected += overlap / (2 - overlap);  // at least: (1 - d) / (1 + d) with d = 1 - overlap
      ++positions;
    }
  }
  const double rate = static_cast<double>(accepted) / static_cast<double>(proposed), least = expected / positions;
  EXPECT_GT(rate, least - 1.5 / std::sqrt(static_cast<double>(proposed)));  // three deviations at most
}

TEST(Generate, MeasuresDraftingAcrossTexts) {
  Engine engine(stream(1), golden_model("mtp"), {});
  Session session(engine, true);
  const auto result_with = [&](DraftSwitch* drafting, Draft draft) {
    return generate(
        session, kPrompt, greedy(5, draft), [](int32_t) { return true; }, drafting);
  };
  // A text of 5 tokens ends with the last plain pass before drafting is tried.
  for (int i = 0; i < 3; ++i) EXPECT_EQ(result_with(nullptr, Draft::automatic).proposed, 0);
  DraftSwitch kept;
  EXPECT_EQ(result_with(&kept, Draft::automatic).proposed, 0);
  EXPECT_TRUE(kept.on());
  EXPECT_GT(result_with(&kept, Draft::automatic).proposed, 0);

  DraftSwitch slower;
  for (int i = 0; i < 4; ++i) slower.add(1, 1, 1.0);
  for (int i = 0; i < 10 && slower.on(); ++i) slower.add(2, 1, 100.0);
  ASSERT_TRUE(slower.slower());
  GenerateResult result = result_with(&slower, Draft::automatic);
  EXPECT_EQ(result.proposed, 0);
  EXPECT_TRUE(result.measured_slower);
  result = result_with(&slower, Draft::on);
  EXPECT_GT(result.proposed, 0);
  EXPECT_FALSE(result.measured_slower);
}

TEST(Generate, ProposalsDoNotDependOnHowThePromptWasCut) {
  // If the MTP cache had holes or stale entries after rejections, its logits would differ from those of one pass.
  Engine engine(stream(1), golden_model("mtp"), {256, 1024});
  Session session(engine, true);
  text(session, greedy(60, Draft::on));
  const std::vector<int32_t> ids(session.ids().begin(), session.ids().end());
  Session fresh(engine, true);
  fresh.feed(std::span(ids).first(kPrompt.size()), 0);
  fresh.feed(std::span(ids).subspan(kPrompt.size()), 0, RowKind::text);
  session.draft(3);  // the module has run on all positions now
  fresh.draft(3);
  const int32_t more[] = {3, 4};
  session.feed(more, 0);
  fresh.feed(more, 0);
  EXPECT_TRUE(same_bits(values(session.draft(9)), values(fresh.draft(9))));
}

/// P(t1, t2, t3 | prompt) under `rule`, by feeding every sequence; keys t1 * V^2 + t2 * V + t3.
std::map<int64_t, double> exact_distribution(const Model& model, const SamplingRule& rule, int depth) {
  Engine engine(stream(1), model, {});
  Session session(engine, false);
  const int64_t V = model.config.vocab_size;
  std::map<int64_t, double> level = {{0, 1.0}};
  for (int d = 0; d < depth; ++d) {
    std::map<int64_t, double> next;
    for (const auto& [key, probability] : level) {
      std::vector<int32_t> ids = kPrompt;
      for (int64_t i = d, divisor = 1; i > 0; --i, divisor *= V)
        ids.insert(ids.begin() + static_cast<int64_t>(kPrompt.size()), static_cast<int32_t>(key / divisor % V));
      session.truncate(0);
      const Tensor p = session.feed(ids, 1);
      std::set<int32_t> once(ids.begin(), ids.end());
      std::vector<int32_t> seen(once.begin(), once.end());
      SamplingState state;
      state.seen = Tensor(seen.data(), DType::i32, {static_cast<int64_t>(seen.size())});
      sampling_distribution(engine.stream(), p, p, V, rule, state);
      for (int64_t id = 0; id < V; ++id)
        if (p.f32()[id] > 0) next[key * V + id] = probability * static_cast<double>(p.f32()[id]);
    }
    level = std::move(next);
  }
  return level;
}

/// Pearson's statistic of many short texts with drafts of the MTP module against `expected`, in deviations from its
/// mean.
double text_chi_square(const Model& model, const SamplingRule& rule, const std::map<int64_t, double>& expected) {
  const int64_t V = model.config.vocab_size;
  constexpr int64_t kTexts = 20000;
  Engine engine(stream(1), model, {});
  Session session(engine, true);
  std::map<int64_t, int64_t> counts;
  int64_t accepted = 0, proposed = 0;
  for (int64_t i = 0; i < kTexts; ++i) {
    GenerateOptions options;
    options.rule = rule;
    options.seed = static_cast<uint64_t>(i);
    options.max_tokens = 3;
    options.draft = Draft::on;
    GenerateResult result;
    const std::vector<int32_t> t = text(session, options, &result);
    ++counts[(t[0] * V + t[1]) * V + t[2]];
    accepted += result.accepted;
    proposed += result.proposed;
  }
  EXPECT_GT(accepted, proposed / 10);
  EXPECT_LT(accepted, proposed * 9 / 10);
  double statistic = 0;
  int64_t seen = 0;
  for (const auto& [key, probability] : expected) {
    const double n = probability * kTexts;
    statistic += (static_cast<double>(counts[key]) - n) * (static_cast<double>(counts[key]) - n) / n;
    seen += counts[key];
  }
  EXPECT_EQ(seen, kTexts);
  const double freedom = static_cast<double>(expected.size()) - 1;
  return (statistic - freedom) / std::sqrt(2 * freedom);
}

TEST(Generate, SampledTextWithDraftsFollowsTheModel) {
  SamplingRule rule;
  rule.top_k = 3;
  const std::map<int64_t, double> expected = exact_distribution(agreeing(), rule, 3);
  ASSERT_EQ(expected.size(), 27u);
  EXPECT_LT(text_chi_square(agreeing(), rule, expected), 4);

  // The penalty is for the prompt and what was sampled, not for drafts.
  rule.repetition_penalty = 1.3f;
  const std::map<int64_t, double> penalised = exact_distribution(agreeing(), rule, 3);
  ASSERT_EQ(penalised.size(), 27u);
  double distance = 0;
  for (const auto& [key, p] : penalised) distance += std::abs(p - (expected.count(key) ? expected.at(key) : 0));
  EXPECT_GT(distance, .05);  // enough to be noticed
  EXPECT_LT(text_chi_square(agreeing(), rule, penalised), 4);
}

TEST(Generate, SeedDecidesSampledText) {
  Engine engine(stream(2), golden_model("v3"), {});
  GenerateOptions options;
  options.max_tokens = 20;
  Session a(engine, false);
  options.seed = 5;
  const std::vector<int32_t> first = text(a, options);
  EXPECT_EQ(text(a, options), first);  // the session is rewound
  options.seed = 6;
  EXPECT_NE(text(a, options), first);
}

TEST(Generate, StopsWhereItShould) {
  Engine engine(stream(1), golden_model("mtp"), {});
  for (const bool drafting : {false, true}) {
    Session session(engine, drafting);
    const Draft draft = drafting ? Draft::on : Draft::off;
    GenerateResult result;
    const std::vector<int32_t> all = text(session, greedy(30, draft), &result);
    EXPECT_EQ(result.finish, Finish::max_tokens);
    EXPECT_EQ(result.tokens, 30);
    GenerateOptions stop = greedy(30, draft);
    stop.stop_ids = {all[7]};
    const auto first = std::find(all.begin(), all.end(), all[7]);
    EXPECT_EQ(text(session, stop, &result), std::vector<int32_t>(all.begin(), first));
    EXPECT_EQ(result.finish, Finish::stop_id);
    EXPECT_EQ(text(session, greedy(0, draft), &result).size(), 0u);
    EXPECT_EQ(text(session, greedy(2, draft), &result).size(), 2u);
    EXPECT_EQ(result.proposed, 0);  // there is no token after the one that a draft would be
    int64_t received = 0;
    result = generate(session, kPrompt, greedy(30, draft), [&](int32_t) { return ++received < 4; });
    EXPECT_EQ(result.finish, Finish::stopped);
    EXPECT_EQ(received, 4);
  }
}

TEST(Generate, FullContextEndsTheText) {
  for (const auto& [mtp, draft] : kDraftings) {
    Engine engine(stream(1), golden_model("mtp"), {20, 0});
    Session session(engine, mtp);
    GenerateResult result;
    const std::vector<int32_t> out = text(session, greedy(100, draft), &result);
    EXPECT_EQ(result.finish, Finish::context_full);
    EXPECT_EQ(out.size(), 16u);  // 5 + 15 tokens are fed, and each of the positions 4 to 19 predicts one
  }
}

TEST(Generate, RefusesBadPrompts) {
  Engine engine(stream(1), golden_model("v3"), {16, 0});
  Session session(engine, false);
  const auto message = [&](const std::vector<int32_t>& prompt) -> std::string {
    try {
      generate(session, prompt, {}, [](int32_t) { return false; });
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(message({}).find("prompt: expected at least one token"), std::string::npos);
  EXPECT_NE(message(std::vector<int32_t>(17, 1)).find("at most 16"), std::string::npos);
  EXPECT_NE(message({3, 130}).find("0 to 129"), std::string::npos);
  EXPECT_NE(message({-1}).find("found -1"), std::string::npos);
  EXPECT_EQ(message({1, 2}), "");
}

}  // namespace
}  // namespace sluice::test
