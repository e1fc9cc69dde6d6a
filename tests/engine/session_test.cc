#include "engine/session.h"

#include "fixture.h"

namespace sluice::test {
namespace {

TEST(Session, TruncateForgets) {
  Engine engine(stream(1), golden_model("v3"), {});
  Session a(engine, false), b(engine, false);
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5}, other = {9, 8, 7};
  a.feed(ids, 0);
  a.truncate(2);
  EXPECT_EQ(a.length(), 2);
  const std::vector<float> from_a = values(a.feed(other, 3));
  b.feed(std::span(ids).first(2), 0);
  EXPECT_TRUE(same_bits(values(b.feed(other, 3)), from_a));
}

TEST(Session, RewindKeepsTheCommonBeginning) {
  for (const bool draft : {false, true}) {
    Engine engine(stream(1), golden_model("mtp"), {256, 1024});
    Session session(engine, draft);
    const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
    EXPECT_EQ(session.rewind(ids), 0);
    session.feed(ids, 0);
    if (draft) session.draft(6);
    EXPECT_EQ(session.rewind(ids), 4);  // one token must be left to feed
    session.feed(std::span(ids).last(1), 0);
    if (draft) session.draft(6);
    const std::vector<int32_t> changed = {1, 2, 9, 4};
    const int64_t kept = session.rewind(changed);
    EXPECT_EQ(kept, draft ? 1 : 2);  // the MTP entry of token 2 holds the old token 3
    session.feed(std::span(changed).subspan(static_cast<size_t>(kept)), 0);
    if (!draft) continue;
    Session fresh(engine, true);
    fresh.feed(changed, 0);
    fresh.draft(7);
    session.draft(7);
    const std::vector<int32_t> more = {7, 8};
    fresh.feed(more, 0);
    session.feed(more, 0);
    EXPECT_TRUE(same_bits(values(session.draft(10)), values(fresh.draft(10))));
  }
}

TEST(Session, ContextLimit) {
  Engine engine(stream(1), golden_model("v3"), {70, 0});
  EXPECT_EQ(engine.context(), 70);
  Session session(engine, false);
  session.feed(std::vector<int32_t>(69, 3), 0);
  EXPECT_EQ(session.room(), 1);
  const std::vector<int32_t> two = {1, 2};
  try {
    session.feed(two, 0);
    FAIL() << "expected an Error";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "context: 2 tokens do not fit beside the 69 of 70 in use");
  }
  session.feed(std::span(two).first(1), 1);
  EXPECT_EQ(session.room(), 0);
}

TEST(Session, ABadIdLeavesTheSequenceAsItWas) {
  Engine engine(stream(1), golden_model("v3"), {});
  Session session(engine, false), other(engine, false);
  const std::vector<int32_t> good = {4, 5}, bad = {6, 130}, more = {7};
  session.feed(good, 0);
  EXPECT_THROW(session.feed(bad, 0), Error);
  EXPECT_EQ(session.length(), 2);
  const std::vector<float> logits = values(session.feed(more, 1));
  session.truncate(0);
  const std::vector<int32_t> all = {4, 5, 7};
  EXPECT_TRUE(same_bits(values(session.feed(all, 1)), logits));
}

TEST(Session, PagesComeBack) {
  Engine engine(stream(1), golden_model("v3"), {128, 0});
  EXPECT_EQ(engine.cache().free_pages(), 2);
  {
    Session a(engine, false);
    a.feed(std::vector<int32_t>(65, 1), 0);
    EXPECT_EQ(engine.cache().free_pages(), 0);
    Session b(engine, false);
    const std::vector<int32_t> one = {1};
    EXPECT_THROW(b.feed(one, 0), Error);
    a.truncate(64);
    EXPECT_EQ(engine.cache().free_pages(), 1);
    b.feed(one, 0);
  }
  EXPECT_EQ(engine.cache().free_pages(), 2);
}

TEST(Session, PromptsPastMaxPositionEmbeddings) {
  const Model& model = golden_model("v3-yarn");  // max_position_embeddings 128
  Engine engine(stream(2), model, {3000, 0});
  Session session(engine, false), chunks(engine, false);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 2500; ++i) ids.push_back(i * 7 % 130);
  const std::vector<float> logits = values(session.feed(ids, 4));  // several passes, and the rope table grows
  session.truncate(0);
  std::vector<float> in_chunks;
  for (size_t i = 0; i < ids.size(); i += 700) {
    const auto piece = std::span(ids).subspan(i, std::min<size_t>(700, ids.size() - i));
    in_chunks = values(session.feed(piece, 4));
  }
  EXPECT_TRUE(same_bits(in_chunks, logits));

  // The training forward, which shares ops and weights with the engine but not its code.
  Arena arena(size_t{1} << 30);
  ModelBatch batch;
  batch.batch = 1;
  batch.tokens = static_cast<int64_t>(ids.size());
  batch.ids_T = Tensor(ids.data(), DType::i32, {batch.tokens});
  batch.target_T = arena.alloc(DType::i32, {batch.tokens});
  std::fill_n(batch.target_T.ptr<int32_t>(), batch.tokens, -1);
  const PassResult pass = model_forward(stream(2), arena, model, batch, {}, {});
  const Tensor expected = arena.f32(4, model.config.vocab_size);
  model_logits(stream(2), expected, pass.normed_TD.slice_rows(batch.tokens - 4, 4), model);
  EXPECT_LE(max_error(logits, values(expected)), kLogitsTolerance);
}

TEST(Engine, RefusesBadContexts) {
  EXPECT_THROW(Engine(stream(1), golden_model("v3"), {-1, 0}), Error);
  EXPECT_THROW(Engine(stream(1), golden_model("v3"), {int64_t{1} << 40, 0}), Error);
}

}  // namespace
}  // namespace sluice::test
