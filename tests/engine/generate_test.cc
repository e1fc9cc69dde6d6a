#include "engine/generate.h"

#include <cmath>

#include "fixture.h"

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

/// A model whose MTP module often agrees with it: a copy of "mtp" in which the layers add little, so that the main
/// model sees little more than the last token and the module little more than the one after it.
class Agreeing {
 public:
  Agreeing() : model_(load_model(stream(1), golden_folder("mtp"), Precision::f32)) {
    MtpWeights& m = model_.weights.mtp[0];
    for (const Param& p : parameters(model_.weights)) {
      float* w = p.matrix->tensor().f32();
      const int64_t D = p.matrix->cols;
      for (int64_t i = 0; i < p.matrix->size(); ++i) {
        if (p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight")) w[i] *= 0.07f;
        if (p.matrix == &m.eh_proj) w[i] = i / D == i % D ? 1.0f : 0.0f;
        if (p.matrix == &m.enorm) w[i] = 1;
        if (p.matrix == &m.head_norm) w[i] = model_.weights.norm.tensor().f32()[i];
      }
    }
  }
  const Model& model() const { return model_; }

 private:
  Model model_;
};

const Model& agreeing() {
  static const Agreeing a;
  return a.model();
}

TEST(Generate, GreedyTextIsTheSameWithDrafts) {
  for (const Model* model : {&golden_model("mtp"), &agreeing()}) {
    Engine engine(stream(2), *model, {});
    Session plain(engine, false);
    const std::vector<int32_t> expected = text(plain, greedy(100, Draft::off));
    EXPECT_EQ(expected.size(), 100u);
    for (const Draft draft : {Draft::on, Draft::automatic}) {
      Engine other(stream(1), *model, {});
      Session session(other, true);
      GenerateResult result;
      EXPECT_EQ(text(session, greedy(100, draft), &result), expected);
      EXPECT_GT(result.proposed, 0);
      if (model == &agreeing() && draft == Draft::on) {
        EXPECT_GT(result.accepted, 10);
        EXPECT_LT(result.accepted, result.proposed);  // both branches are taken
      }
    }
  }
}

TEST(Generate, ProposalsDoNotDependOnHowThePromptWasCut) {
  // If the MTP cache had holes or stale entries after rejections, its logits would differ from those of one pass.
  Engine engine(stream(1), golden_model("mtp"), {256, 1024});
  Session session(engine, true);
  text(session, greedy(60, Draft::on));
  const std::vector<int32_t> ids(session.ids().begin(), session.ids().end());
  Session fresh(engine, true);
  fresh.feed(ids, 0);
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
      sampling_distribution(engine.stream(), p, p, V, rule);
      for (int64_t id = 0; id < V; ++id)
        if (p.f32()[id] > 0) next[key * V + id] = probability * static_cast<double>(p.f32()[id]);
    }
    level = std::move(next);
  }
  return level;
}

TEST(Generate, SampledTextWithDraftsFollowsTheModel) {
  const SamplingRule rule{1.0f, 3, 1};
  const Model& model = agreeing();
  const int64_t V = model.config.vocab_size;
  constexpr int64_t kTexts = 20000;
  const std::map<int64_t, double> expected = exact_distribution(model, rule, 3);
  ASSERT_EQ(expected.size(), 27u);
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
  EXPECT_LT(statistic, 26 + 4 * std::sqrt(2 * 26.0));
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
    int64_t received = 0;
    result = generate(session, kPrompt, greedy(30, draft), [&](int32_t) { return ++received < 4; });
    EXPECT_EQ(result.finish, Finish::stopped);
    EXPECT_EQ(received, 4);
  }
}

TEST(Generate, FullContextEndsTheText) {
  for (const bool drafting : {false, true}) {
    Engine engine(stream(1), golden_model("mtp"), {20, 0});
    Session session(engine, drafting);
    GenerateResult result;
    const std::vector<int32_t> out = text(session, greedy(100, drafting ? Draft::on : Draft::off), &result);
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
