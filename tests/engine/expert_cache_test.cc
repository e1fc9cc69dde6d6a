// Models larger than memory: same bits, order of eviction, broken files.
#include "engine/expert_cache.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "fixture.h"
#include "ops/block_quant.h"

namespace sluice::test {
namespace {

/// A golden model whose products' matrices lie in a mapped file, those whose rows are whole blocks in `format`.
class MappedModel {
 public:
  explicit MappedModel(const std::string& name, Format format = Format::f32) {
    const Model& source = golden_model(name);
    file_ = fs::temp_directory_path() / fmt::format("sluice_experts_{}_{}", getpid(), serial_++);
    model_.config = source.config;
    model_.weights = source.weights;
    AtomicFile out(file_);
    std::vector<size_t> offsets;
    size_t end = 0;
    for (const Param& p : parameters(model_.weights)) {
      std::vector<std::byte> bytes = encode(p, format);
      bytes.resize((bytes.size() + 31) / 32 * 32);
      out.write(bytes);
      offsets.push_back(end);
      end += bytes.size();
    }
    out.commit();
    const auto mapping = std::make_shared<std::vector<MappedFile>>();
    mapping->emplace_back(file_);
    model_.files = mapping;
    model_.mappings = *mapping;
    size_t i = 0;
    for (const Param& p : parameters(model_.weights)) {
      const std::byte* data = mapping->front().bytes().data() + offsets[i++];
      if (lies_in_file(p)) p.matrix->data = const_cast<std::byte*>(data);
    }
  }
  ~MappedModel() { fs::remove(file_); }
  const Model& model() const { return model_; }
  const fs::path& file() const { return file_; }
  /// Options with a bound that has room for so many experts.
  EngineOptions room_for(int64_t experts, EngineOptions options) const {
    options.memory = size_t{1} << 40;
    for (size_t before = 0; options.memory != before;) {  // a smaller bound means smaller passes
      before = options.memory;
      const MemoryPlan plan = plan_memory(model_, options);
      options.memory = plan.weights + plan.sequences + plan.workspace + static_cast<size_t>(experts) * plan.slot_bytes;
    }
    EXPECT_EQ(plan_memory(model_, options).slots, experts);
    return options;
  }

 private:
  static bool lies_in_file(const Param& p) {
    return *p.matrix && !p.name.ends_with("kv_b_proj.weight") && p.kind != ParamKind::norm &&
           p.kind != ParamKind::router_bias && p.kind != ParamKind::embedding;
  }
  std::vector<std::byte> encode(const Param& p, Format format) {
    Matrix& m = *p.matrix;
    if (!lies_in_file(p)) return {};
    const std::byte* data = static_cast<const std::byte*>(m.data);
    if (p.kind != ParamKind::linear || p.name.ends_with("kv_b_proj.weight") || m.format != Format::f32 ||
        format == Format::f32 || m.cols % block_shape(format).elements != 0)
      return {data, data + matrix_bytes(m)};
    std::vector<std::byte> bytes(static_cast<size_t>(m.rows * row_bytes(format, m.cols)));
    for (int64_t r = 0; r < m.rows; ++r)
      quantize_row(static_cast<const float*>(m.data) + r * m.cols, format, m.cols, nullptr,
                   bytes.data() + r * row_bytes(format, m.cols));
    m.format = format;
    return bytes;
  }

  inline static int serial_ = 0;
  fs::path file_;
  Model model_;
};

std::vector<int32_t> some_ids(size_t n, int32_t step) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(i) * step % 130);
  return ids;
}

/// Logits of a prompt in pieces, then of tokens one by one in two sequences at once.
std::vector<float> outputs(Engine& engine) {
  Session a(engine, false), b(engine, false);
  const std::vector<int32_t> prompt = some_ids(50, 7), other = some_ids(9, 11);
  std::vector<float> out = logits_in_chunks(a, prompt, 20), logits;
  append(out, b.feed(other, 2));
  for (int32_t t = 0; t < 6; ++t) {
    const int32_t next[2] = {t * 17 % 130, t * 29 % 130};
    const BatchItem items[] = {{&a, {&next[0], 1}}, {&b, {&next[1], 1}}};
    feed_batch(engine, items, logits);
    out.insert(out.end(), logits.begin(), logits.end());
  }
  return out;
}

TEST(ExpertCache, SameBitsWithFewExperts) {
  const std::pair<const char*, Format> kModels[] = {
      {"v3", Format::f32}, {"v2", Format::f32}, {"mtp", Format::f32}, {"fp8", Format::q8_0}, {"fp8", Format::q4_0}};
  for (const auto& [name, format] : kModels) {
    const MappedModel mapped(name, format);
    Engine unbounded(stream(1), mapped.model(), {256, 512, 0});
    const std::vector<float> expected = outputs(unbounded);
    const int64_t top_k = mapped.model().config.num_experts_per_tok;
    for (const int64_t experts : {top_k, top_k + 1, 2 * top_k})  // of the first two a pass evicts its own
      for (const int threads : {1, 2, 5}) {
        Engine engine(stream(threads), mapped.model(), mapped.room_for(experts, {256, 512, 0}));
        EXPECT_TRUE(same_bits(outputs(engine), expected)) << name << ", " << experts << " experts";
        const ExpertTraffic t = engine.experts()->traffic();
        EXPECT_GT(t.bytes, 0);
        EXPECT_LE(t.needed_bytes, t.bytes);
        EXPECT_LE(t.found + t.foreseen, t.asked);
      }
  }
}

TEST(ExpertCache, DraftsOfTheMtpModule) {
  const MappedModel mapped("mtp");
  Engine unbounded(stream(2), mapped.model(), {256, 0, 0});
  Engine engine(stream(2), mapped.model(), mapped.room_for(3, {256, 0, 0}));
  Session expected(unbounded, true), session(engine, true);
  for (int32_t t = 0; t < 5; ++t) {
    const std::vector<int32_t> ids = some_ids(4, t + 3);
    EXPECT_TRUE(same_bits(values(session.feed(ids, 4)), values(expected.feed(ids, 4))));
    EXPECT_TRUE(same_bits(values(session.draft(t)), values(expected.draft(t))));
  }
}

/// A pass over one layer that asks for these experts.
void ask(ExpertCache& cache, const MoeWeights& layer, const std::vector<int32_t>& experts) {
  cache.begin(layer, experts);
  std::vector<int32_t> given;
  for (auto some = cache.next(); !some.empty(); some = cache.next())
    given.insert(given.end(), some.begin(), some.end());
  std::sort(given.begin(), given.end());
  EXPECT_EQ(given, experts);
}

std::vector<int32_t> held(ExpertCache& cache, const MoeWeights& layer) {
  std::vector<int32_t> experts;
  for (int32_t e = 0; e < static_cast<int32_t>(layer.gate.size()); ++e)
    if (cache.holds(layer, e)) experts.push_back(e);
  return experts;
}

TEST(ExpertCache, EvictsTheLeastRecentlyUsed) {
  const MappedModel mapped("v3");
  const std::vector<const MoeWeights*> layers = expert_layers(mapped.model().weights);
  ASSERT_GE(layers.size(), 2u);
  const MoeWeights &one = *layers[0], &two = *layers[1];
  ExpertCache cache(mapped.model(), 6);
  ask(cache, one, {0, 1, 2});
  ask(cache, one, {0, 3, 4, 5});
  EXPECT_EQ(held(cache, one), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  ask(cache, two, {5, 6});  // from the layer over its share, now three
  EXPECT_EQ(held(cache, one), (std::vector<int32_t>{0, 3, 4, 5}));
  EXPECT_EQ(held(cache, two), (std::vector<int32_t>{5, 6}));
  ask(cache, one, {0, 7});  // over its share: its own
  EXPECT_EQ(held(cache, one), (std::vector<int32_t>{0, 4, 5, 7}));
  ask(cache, two, {1});  // below its share
  EXPECT_EQ(held(cache, one), (std::vector<int32_t>{0, 5, 7}));
  EXPECT_EQ(held(cache, two), (std::vector<int32_t>{1, 5, 6}));
  const ExpertTraffic t = cache.traffic();
  EXPECT_EQ(t.asked, 12);
  EXPECT_EQ(t.found, 2);
  EXPECT_EQ(t.bytes, t.needed_bytes);
}

TEST(ExpertCache, MoreExpertsThanPlaces) {
  const MappedModel mapped("v3");
  const std::vector<const MoeWeights*> layers = expert_layers(mapped.model().weights);
  ExpertCache cache(mapped.model(), 1);
  for (int i = 0; i < 20; ++i) ask(cache, *layers[static_cast<size_t>(i) % 2], {0, 1, 2, 3, 4, 5, 6, 7});
}

TEST(ExpertCache, ReadsWhatIsExpected) {
  const MappedModel mapped("v3");
  const std::vector<const MoeWeights*> layers = expert_layers(mapped.model().weights);
  ExpertCache cache(mapped.model(), 6);
  ask(cache, *layers[0], {0, 1, 2, 3, 4, 5});
  const std::vector<int32_t> likely = {2, 3, 4};
  for (int i = 0; i < 50; ++i) {  // dropped, under way or there
    cache.expect(*layers[1], likely);
    ask(cache, *layers[1], {i % 2, 3});
    ask(cache, *layers[0], {i % 3, 4});
  }
  EXPECT_GT(cache.traffic().foreseen, 0);
}

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(ExpertCache, AFileThatEndsEarlyIsAnError) {
  const MappedModel mapped("v3");
  const std::vector<const MoeWeights*> layers = expert_layers(mapped.model().weights);
  ExpertCache cache(mapped.model(), 4);
  ask(cache, *layers[0], {0});
  const auto size = fs::file_size(mapped.file());
  fs::resize_file(mapped.file(), 4096);
  for (int i = 0; i < 10; ++i) {
    const std::string error = error_of([&] { ask(cache, *layers[1], {0, 1, 2, 3, 4, 5}); });
    EXPECT_NE(error.find(mapped.file().string()), std::string::npos) << error;
    EXPECT_NE(error.find("found an end"), std::string::npos) << error;
  }
  fs::resize_file(mapped.file(), size);
  ask(cache, *layers[1], {0, 1, 2, 3, 4, 5});
}

TEST(ExpertCache, AnEngineThatCannotReadLeavesTheSequenceAsItWas) {
  const MappedModel mapped("v3");
  Engine engine(stream(2), mapped.model(), mapped.room_for(3, {256, 0, 0}));
  Session session(engine, false);
  const std::vector<int32_t> ids = some_ids(40, 7);
  session.feed(ids, 0);  // everything else is in memory now
  const std::vector<float> expected = values(session.feed(ids, 1));
  session.truncate(40);
  const fs::path copy = mapped.file().string() + ".copy";
  fs::copy_file(mapped.file(), copy);
  fs::resize_file(mapped.file(), 0);
  EXPECT_NE(error_of([&] { session.feed(ids, 1); }), "");
  EXPECT_EQ(session.length(), 40);
  fs::copy_file(copy, mapped.file(), fs::copy_options::overwrite_existing);
  fs::remove(copy);
  EXPECT_TRUE(same_bits(values(session.feed(ids, 1)), expected));
}

TEST(MemoryPlan, SaysWhatIsNeeded) {
  const MappedModel mapped("v3");
  const std::string error = error_of([&] { plan_memory(mapped.model(), {256, 0, 1000}); });
  EXPECT_EQ(error.find("--memory: expected at least "), 0u) << error;
  const MemoryPlan all = plan_memory(mapped.model(), {256, 0, size_t{1} << 40});
  EXPECT_EQ(all.slots, all.experts);
  EXPECT_EQ(all.experts, 2 * 8);
  EXPECT_EQ(all.pass_rows, kPassRows);
  EXPECT_LT(plan_memory(mapped.model(), mapped.room_for(3, {256, 0, 0})).pass_rows, kPassRows);
  EXPECT_NE(error_of([&] {
              plan_memory(golden_model("v3"), {256, 0, size_t{1} << 40});
            }).find("GGUF"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::test
