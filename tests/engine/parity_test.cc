// The engine against the values of an independent implementation, and against itself: the same bits however a sequence
// is cut into passes, whatever the number of threads, and wherever its pages lie.
#include <numeric>

#include "engine/generate.h"
#include "fixture.h"

namespace sluice::test {
namespace {

class Golden : public testing::TestWithParam<std::string> {
 protected:
  const Model& model() { return golden_model(GetParam()); }
  const SafetensorsFile& expected() { return golden_values(GetParam()); }
  std::vector<float> expected_rows(const char* key, size_t sequence) {
    const SafetensorsEntry& e = expected().get(key);
    const int64_t n = e.shape[1] * e.shape[2];
    std::vector<float> rows(static_cast<size_t>(n));
    e.read_f32(static_cast<int64_t>(sequence) * n, rows);
    return rows;
  }
};
INSTANTIATE_TEST_SUITE_P(Fixtures, Golden, testing::ValuesIn(golden_names()));

TEST_P(Golden, LogitsInOnePassInChunksAndTokenByToken) {
  const auto ids = sequences(expected().get("input_ids"));
  for (size_t b = 0; b < ids.size(); ++b) {
    Engine engine(stream(2), model(), {});
    Session whole(engine, false);
    const std::vector<float> logits = logits_in_chunks(whole, ids[b], ids[b].size());
    EXPECT_LE(max_error(logits, expected_rows("logits", b)), kLogitsTolerance);
    for (const size_t chunk : {1, 2, 3, 7, 33}) {
      whole.truncate(0);
      EXPECT_TRUE(same_bits(logits_in_chunks(whole, ids[b], chunk), logits)) << "chunks of " << chunk;
    }
  }
}

TEST_P(Golden, LogitsDoNotDependOnThreads) {
  const auto ids = sequences(expected().get("input_ids"))[0];
  std::vector<float> first;
  for (const int threads : {1, 2, 5}) {
    Engine engine(stream(threads), model(), {});
    Session session(engine, false);
    std::vector<float> logits = logits_in_chunks(session, ids, 20);
    if (first.empty()) first = logits;
    EXPECT_TRUE(same_bits(logits, first)) << threads << " threads";
  }
}

TEST_P(Golden, MtpLogits) {
  if (!expected().find("mtp_logits")) return;
  const auto ids = sequences(expected().get("input_ids"));
  for (size_t b = 0; b < ids.size(); ++b) {
    Engine engine(stream(2), model(), {});
    const std::vector<float> ref = expected_rows("mtp_logits", b);
    const std::span<const int32_t> tokens(ids[b]);
    std::vector<float> first;
    for (const size_t chunk : {tokens.size() - 1, size_t{1}, size_t{5}}) {
      Session session(engine, true);
      std::vector<float> logits;
      for (size_t i = 0; i + 1 < tokens.size(); i += chunk) {
        const size_t n = std::min(chunk, tokens.size() - 1 - i);
        session.feed(tokens.subspan(i, n), 0);
        append(logits, session.draft(tokens[i + n], static_cast<int64_t>(n)));
      }
      EXPECT_LE(max_error(logits, ref), kLogitsTolerance);
      if (first.empty()) first = logits;
      EXPECT_TRUE(same_bits(logits, first)) << "chunks of " << chunk;
    }
  }
}

TEST_P(Golden, GreedyText) {
  if (!expected().find("greedy")) return;
  const std::vector<int32_t> text = sequences(expected().get("greedy"))[0];
  Engine engine(stream(2), model(), {});
  Session session(engine, false);
  GenerateOptions options;
  options.rule.temperature = 0;
  options.max_tokens = static_cast<int64_t>(text.size()) - 16;
  std::vector<int32_t> out(text.begin(), text.begin() + 16);
  generate(session, std::vector<int32_t>(out), options, [&](int32_t id) {
    out.push_back(id);
    return true;
  });
  EXPECT_EQ(out, text);
}

TEST(Engine, PagesMayLieAnywhere) {
  const Model& model = golden_model("v3");
  const std::vector<int32_t> pattern = sequences(golden_values("v3").get("input_ids"))[0];
  std::vector<int32_t> ids;
  while (ids.size() < 200) ids.insert(ids.end(), pattern.begin(), pattern.end());
  ids.resize(200);
  Engine engine(stream(2), model, {256, 1024});
  Session alone(engine, false);
  const std::vector<float> logits = logits_in_chunks(alone, ids, 200);
  Session a(engine, false), b(engine, false);
  std::vector<float> logits_a, logits_b;
  for (size_t i = 0; i < ids.size(); i += 40) {  // their pages alternate
    append(logits_a, a.feed(std::span(ids).subspan(i, 40), 40));
    append(logits_b, b.feed(std::span(ids).subspan(i, 40), 40));
  }
  EXPECT_TRUE(same_bits(logits_a, logits));
  EXPECT_TRUE(same_bits(logits_b, logits));
}

}  // namespace
}  // namespace sluice::test
