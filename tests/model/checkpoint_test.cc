// Checkpoints that are written and read again in every precision, and checkpoints that are not what config.json says.
#include "model/checkpoint.h"

#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "base/fp8.h"
#include "base/temp_dir.h"
#include "model/size.h"
#include "model/tiny_model.h"

namespace sluice::test {
namespace {

/// Matrices of several FP8 blocks that are no multiples of 128, and of more rows than are streamed at a time (2048).
HfConfig blocks_config() {
  HfConfig c = tiny_config();
  c.vocab_size = 2100;
  c.hidden_size = 136;
  c.intermediate_size = 2180;
  c.moe_intermediate_size = 131;
  c.num_hidden_layers = 2;
  c.n_routed_experts = 3;
  c.kv_lora_rank = 20;
  c.bos_token_id = 0;
  c.eos_token_id = {1, 2};
  return c;
}

Model& blocks_model() {
  static Stream s(2);
  static Model m = random_model(s, blocks_config(), 1);
  return m;
}

const char* const kCopies[] = {"embed_tokens.weight", "shared_head.head.weight"};

class Checkpoint : public testing::Test {
 protected:
  /// Saves a model as `name`, the numbers of any format as they are.
  fs::path save(const std::string& name, Model& m, Precision precision) {
    const fs::path folder = dir_ / name;
    fs::create_directory(folder);
    save_checkpoint(s_, folder, m.config, m.weights, precision, stored_rows());
    return folder;
  }
  Model load(const fs::path& folder, Precision precision) { return load_model(s_, folder, precision); }

  Stream s_{2};
  TempDir dir_;
};

bool same_bits(const Matrix& a, const Matrix& b) {
  if (a.format != b.format || a.rows != b.rows || a.cols != b.cols) return false;
  const size_t scales = static_cast<size_t>(a.scale_rows() * a.scale_cols()) * sizeof(float);
  return std::memcmp(a.data, b.data, a.tensor().bytes()) == 0 &&
         (a.format != Format::fp8_128 || std::memcmp(a.scales, b.scales, scales) == 0);
}

void expect_same_bits(Model& a, Model& b) {
  const std::vector<Param> left = parameters(a.weights), right = parameters(b.weights);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].name, right[i].name);
    EXPECT_TRUE(same_bits(*left[i].matrix, *right[i].matrix)) << left[i].name;
  }
}

std::vector<float> values(const Param& p) {
  std::vector<float> v(static_cast<size_t>(p.matrix->size()));
  const RowSource rows = stored_rows();
  for (int64_t r = 0; r < p.matrix->rows; r += 128)
    rows(p, r, std::min<int64_t>(128, p.matrix->rows - r), v.data() + r * p.matrix->cols);
  return v;
}

std::string file_of(const fs::path& folder) { return read_file(folder / "model.safetensors"); }

TEST_F(Checkpoint, Float32KeepsEveryBit) {
  for (const HfConfig& c : {blocks_config(), grouped_config(), v2_config()}) {
    Model m = random_model(s_, c, c.topk_method == "noaux_tc" ? 1 : 0);
    const fs::path folder = save("f32-" + std::to_string(c.hidden_size + c.n_group), m, Precision::f32);
    Model back = load(folder, Precision::f32);
    expect_same_bits(m, back);
    HfConfig expected = m.config;
    expected.torch_dtype = "float32";
    EXPECT_EQ(back.config, expected);
    EXPECT_EQ(file_precision(SafetensorsFolder(folder)), Precision::f32);
  }
}

TEST_F(Checkpoint, Bfloat16RoundsOnce) {
  Model& m = blocks_model();
  const fs::path folder = save("bf16", m, Precision::bf16);
  EXPECT_EQ(file_precision(SafetensorsFolder(folder)), Precision::bf16);
  Model back = load(folder, Precision::f32), working = load(folder, Precision::bf16);
  EXPECT_EQ(back.config.torch_dtype, "bfloat16");
  const std::vector<Param> before = parameters(m.weights), after = parameters(back.weights);
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    std::vector<float> expected = values(before[i]);
    if (before[i].kind != ParamKind::router_bias)
      for (float& x : expected) x = static_cast<float>(bf16(x));
    EXPECT_EQ(values(after[i]), expected) << before[i].name;
    EXPECT_EQ(values(parameters(working.weights)[i]), expected) << before[i].name;
  }
  EXPECT_TRUE(file_of(save("again-f32", back, Precision::bf16)) == file_of(folder));
  EXPECT_TRUE(file_of(save("again-bf16", working, Precision::bf16)) == file_of(folder));
}

TEST_F(Checkpoint, Fp8RoundsOnceByBlocks) {
  Model& m = blocks_model();
  const fs::path folder = save("fp8", m, Precision::fp8);
  EXPECT_EQ(file_precision(SafetensorsFolder(folder)), Precision::fp8);
  Model back = load(folder, Precision::f32), working = load(folder, Precision::fp8);
  EXPECT_EQ(back.config.quantization, HfQuantization{});
  const std::vector<Param> before = parameters(m.weights), after = parameters(back.weights),
                           codes = parameters(working.weights);
  ASSERT_TRUE(before.size() == after.size() && before.size() == codes.size());
  for (size_t i = 0; i < before.size(); ++i) {
    const std::vector<float> x = values(before[i]), y = values(after[i]);
    const Matrix& code = *codes[i].matrix;
    EXPECT_EQ(code.format == Format::fp8_128, before[i].kind == ParamKind::linear) << before[i].name;
    if (code.format != Format::fp8_128) continue;
    EXPECT_EQ(values(codes[i]), y) << before[i].name;
    int64_t wrong = 0;
    for (size_t n = 0; n < x.size(); ++n) {
      const int64_t row = static_cast<int64_t>(n) / code.cols, col = static_cast<int64_t>(n) % code.cols;
      const double scale = double{code.scales[row / 128 * code.scale_cols() + col / 128]};
      // Half a unit in the last place: 3 bits of mantissa, spacing 2^-9 below the smallest normal number.
      const double half_ulp = std::max(std::abs(double{x[n]}) / 16, scale * 0x1p-10) * (1 + 1e-6);
      wrong += !(std::abs(double{x[n]} - double{y[n]}) <= half_ulp);
    }
    EXPECT_EQ(wrong, 0) << before[i].name;
  }
  // From then on nothing moves.
  Model again = load(save("again-fp8", working, Precision::fp8), Precision::fp8);
  expect_same_bits(working, again);
  again = load(save("again-f32", back, Precision::fp8), Precision::fp8);
  expect_same_bits(working, again);
}

TEST_F(Checkpoint, EveryStoredTypeLoadsIntoEveryFormat) {
  Model& m = blocks_model();
  for (const Precision stored : {Precision::f32, Precision::bf16, Precision::fp8}) {
    const fs::path folder = save("stored" + std::to_string(static_cast<int>(stored)), m, stored);
    Model exact = load(folder, Precision::f32);
    for (const Precision precision : {Precision::bf16, Precision::fp8}) {
      Model got = load(folder, precision), expected = allocate_model(exact.config, 1, precision);
      std::map<std::string, Matrix*> by_name;
      for (const Param& p : parameters(exact.weights)) by_name[p.name] = p.matrix;
      fill_model(s_, expected, [&](const Param& p, int64_t begin, int64_t rows, float* out) {
        stored_rows()({p.name, by_name.at(p.name), p.kind}, begin, rows, out);
      });
      expect_same_bits(got, expected);
    }
  }
}

TEST_F(Checkpoint, HoldsTheCopiesOfTheMtpModules) {
  for (const Precision precision : {Precision::f32, Precision::bf16, Precision::fp8}) {
    Model m = random_model(s_, tiny_config(), 2);
    const SafetensorsFolder files(save("copies" + std::to_string(static_cast<int>(precision)), m, precision));
    for (const int layer : {3, 4})
      for (const char* copy : kCopies) {
        const SafetensorsEntry& e = files.get(fmt::format("model.layers.{}.{}", layer, copy));
        const SafetensorsEntry& of = files.get(copy == kCopies[0] ? "model.embed_tokens.weight" : "lm_head.weight");
        EXPECT_EQ(e.dtype, precision == Precision::f32 ? StDType::f32 : StDType::bf16);
        EXPECT_EQ(e.shape, of.shape);
        EXPECT_TRUE(e.dtype == of.dtype && std::ranges::equal(e.bytes, of.bytes)) << e.name;
      }
  }
}

TEST_F(Checkpoint, AnnouncesTheModulesItHolds) {
  Model m = random_model(s_, tiny_config(), 2);
  m.config.num_nextn_predict_layers = 7;
  const fs::path folder = save("modules", m, Precision::f32);
  EXPECT_EQ(load_config(folder).num_nextn_predict_layers, 2);
  EXPECT_EQ(stored_mtp_modules(SafetensorsFolder(folder), load_config(folder)), 2);
}

TEST_F(Checkpoint, HoldsTheTensorsThatAreCounted) {
  for (const Precision precision : {Precision::f32, Precision::bf16, Precision::fp8}) {
    Model& m = blocks_model();
    const SafetensorsFolder files(save("counted" + std::to_string(static_cast<int>(precision)), m, precision));
    std::map<StDType, int64_t> bytes;
    for (const SafetensorsEntry* e : files.entries()) bytes[e->dtype] += static_cast<int64_t>(e->bytes.size());
    const StoredBytes expected = stored_bytes(m.config, 1, precision);
    EXPECT_EQ(bytes[StDType::f32], expected.f32);
    EXPECT_EQ(bytes[StDType::bf16], expected.bf16);
    EXPECT_EQ(bytes[StDType::f8_e4m3], expected.fp8);
    EXPECT_EQ(bytes.size(), 3u);  // and nothing else
  }
}

TEST_F(Checkpoint, RandomWeightsDependOnSeedNameAndElementOnly) {
  const HfConfig c = blocks_config();
  const RowSource rows = random_rows(c, 7);
  ModelWeights shapes = weight_shapes(c, 1);
  std::set<float> firsts;
  size_t matrices = 0;
  for (const Param& p : parameters(shapes)) {
    const size_t cols = static_cast<size_t>(p.matrix->cols),
                 n = std::min<size_t>(300, static_cast<size_t>(p.matrix->rows));
    std::vector<float> whole(n * cols), part((n - n / 2) * cols), other(n * cols);
    rows(p, 0, static_cast<int64_t>(n), whole.data());
    rows(p, static_cast<int64_t>(n / 2), static_cast<int64_t>(n - n / 2), part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.end() - static_cast<ptrdiff_t>(part.size()))) << p.name;
    if (p.kind == ParamKind::norm || p.kind == ParamKind::router_bias) {
      EXPECT_EQ(whole, std::vector<float>(n * cols, p.kind == ParamKind::norm ? 1.0f : 0.0f)) << p.name;
      continue;
    }
    random_rows(c, 8)(p, 0, static_cast<int64_t>(n), other.data());
    EXPECT_NE(whole, other) << p.name;
    ++matrices;
    firsts.insert(whole[0]);
    double squares = 0, sum = 0;
    for (const float x : whole) squares += double{x} * double{x}, sum += double{x};
    const double count = static_cast<double>(whole.size()), sigma = c.initializer_range;
    EXPECT_NEAR(sum / count, 0, 5 * sigma / std::sqrt(count)) << p.name;
    EXPECT_NEAR(squares / count, sigma * sigma, 5 * sigma * sigma * std::sqrt(2 / count)) << p.name;
  }
  EXPECT_EQ(firsts.size(), matrices);  // no two matrices alike
}

/// A tensor of a file, to be changed.
struct Stored {
  SafetensorsSpec spec;
  std::string bytes;
};

class BrokenCheckpoint : public Checkpoint {
 protected:
  fs::path saved(Precision precision = Precision::f32, int64_t mtp_modules = 1) {
    Model m = random_model(s_, tiny_config(), mtp_modules);
    return save("good", m, precision);
  }

  /// A copy of the checkpoint in which edit(tensors) has changed, added or taken away some.
  template <class F>
  fs::path edited(const fs::path& folder, F&& edit) {
    std::map<std::string, Stored> tensors;
    const SafetensorsFolder files(folder);
    for (const SafetensorsEntry* e : files.entries())
      tensors[e->name] = {{e->name, e->dtype, e->shape},
                          {reinterpret_cast<const char*>(e->bytes.data()), e->bytes.size()}};
    edit(tensors);
    const fs::path copy = dir_ / fmt::format("edited{}", ++copies_);
    fs::create_directory(copy);
    fs::copy_file(folder / "config.json", copy / "config.json");
    std::vector<SafetensorsSpec> specs;
    for (const auto& [name, t] : tensors) specs.push_back(t.spec);
    write_safetensors_folder(copy, specs, 1 << 30, [&](const SafetensorsSpec& spec, SafetensorsWriter& writer) {
      writer.write(std::as_bytes(std::span(tensors.at(spec.name).bytes)));
    });
    return copy;
  }
  fs::path without(const fs::path& folder, const std::string& name) {
    return edited(folder, [&](auto& tensors) { EXPECT_EQ(tensors.erase(name), 1u) << name; });
  }
  std::string load_error(const fs::path& folder, Precision precision = Precision::f32) {
    return error_of([&] { load(folder, precision); });
  }

 private:
  int copies_ = 0;
};

bool is_mtp(const std::string& name) { return name.starts_with("model.layers.3."); }
bool is_copy(const std::string& name) { return name.ends_with(kCopies[0]) || name.ends_with(kCopies[1]); }

TEST_F(BrokenCheckpoint, WithoutMtpTensorsHasNoModules) {
  const fs::path folder = saved();
  for (const bool keep_copies : {false, true}) {
    const fs::path copy = edited(folder, [&](auto& tensors) {
      std::erase_if(tensors, [&](const auto& t) { return is_mtp(t.first) && !(keep_copies && is_copy(t.first)); });
    });
    const Model m = load(copy, Precision::f32);
    EXPECT_TRUE(m.weights.mtp.empty());
    EXPECT_EQ(m.config.num_nextn_predict_layers, 0);
    EXPECT_EQ(m.weights.layers.size(), 3u);
  }
}

TEST_F(BrokenCheckpoint, NeedsNoCopies) {
  Model m = load(saved(), Precision::f32);
  Model bare = load(edited(dir_ / "good",
                           [](auto& tensors) {
                             std::erase_if(tensors, [](const auto& t) { return is_mtp(t.first) && is_copy(t.first); });
                           }),
                    Precision::f32);
  expect_same_bits(m, bare);
  EXPECT_EQ(bare.weights.mtp.size(), 1u);
}

/// One parameter of every role: a dense layer, a layer with experts and the module, each with its first expert only.
std::vector<Param> roles(ModelWeights& shapes) {
  std::vector<Param> list = parameters(shapes);
  std::erase_if(list, [](const Param& p) {
    const bool other_expert =
        p.name.find(".experts.") != std::string::npos && p.name.find(".experts.0.") == std::string::npos;
    return other_expert || p.name.starts_with("model.layers.2.");
  });
  return list;
}

TEST_F(BrokenCheckpoint, NamesAMissingTensor) {
  const fs::path folder = saved();
  ModelWeights shapes = weight_shapes(tiny_config(), 1);
  for (const Param& p : roles(shapes)) {
    const fs::path copy = without(folder, p.name);
    EXPECT_EQ(load_error(copy), is_mtp(p.name)
                                    ? fmt::format("{}: {}: missing, while other tensors of the MTP module are there",
                                                  copy.string(), p.name)
                                    : fmt::format("{}: expected a tensor \"{}\", found none", copy.string(), p.name));
  }
}

TEST_F(BrokenCheckpoint, NamesTheFirstTensorOfAMissingModule) {
  const fs::path copy = edited(saved(Precision::f32, 2), [](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) { return t.first.starts_with("model.layers.4."); });
  });
  EXPECT_EQ(load_error(copy), copy.string() +
                                  ": model.layers.4.enorm.weight: missing, while other tensors of the MTP module are "
                                  "there");
}

TEST_F(BrokenCheckpoint, NamesATensorOfAnotherShape) {
  const fs::path folder = saved();
  ModelWeights shapes = weight_shapes(tiny_config(), 1);
  for (const Param& p : roles(shapes)) {
    const bool vector = p.kind == ParamKind::norm || p.kind == ParamKind::router_bias;
    const auto text = [](const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); };
    std::vector<int64_t> good = {p.matrix->rows, p.matrix->cols};
    if (vector) good = {p.matrix->cols};
    // A matrix with a row more; a vector as a matrix of one row.
    std::vector<int64_t> bad = {p.matrix->rows + 1, p.matrix->cols};
    if (vector) bad = {1, p.matrix->cols};
    const std::string error = load_error(edited(folder, [&](auto& tensors) {
      Stored& t = tensors.at(p.name);
      t.spec.shape = bad;
      t.bytes.resize(t.spec.bytes());
    }));
    EXPECT_TRUE(error.ends_with(fmt::format("model.safetensors: {}: expected shape {} (from config.json), found {}",
                                            p.name, text(good), text(bad))))
        << error;
  }
}

TEST_F(BrokenCheckpoint, NamesATensorOfATypeThatIsNoNumber) {
  const std::string text = load_error(
      edited(saved(), [](auto& tensors) { tensors.at("model.layers.1.mlp.gate.weight").spec.dtype = StDType::i32; }));
  EXPECT_TRUE(text.ends_with("\"model.layers.1.mlp.gate.weight\": dtype I32 cannot be read as numbers")) << text;
}

TEST_F(BrokenCheckpoint, NamesScalesThatAreNotThere) {
  const fs::path folder = saved(Precision::fp8);
  const std::string name = "model.layers.0.mlp.up_proj.weight_scale_inv";
  for (const Precision precision : {Precision::f32, Precision::fp8}) {
    EXPECT_TRUE(
        load_error(without(folder, name), precision).ends_with("expected a tensor \"" + name + "\", found none"));
    const std::string error = load_error(edited(folder,
                                                [&](auto& tensors) {
                                                  Stored& t = tensors.at(name);
                                                  t.spec.shape = {1, 2};
                                                  t.bytes.resize(t.spec.bytes());
                                                }),
                                         precision);
    EXPECT_TRUE(error.ends_with(name + ": expected shape [1, 1] (from config.json), found [1, 2]")) << error;
  }
}

TEST_F(BrokenCheckpoint, RefusesScalesOfOtherBlocks) {
  const fs::path folder = save("good", blocks_model(), Precision::fp8);
  HfConfig c = load_config(folder);
  // 131 rows are two blocks of 100 as well as of 128: the shapes of the scales do not tell them apart.
  c.quantization->block_rows = 100;
  write_file(folder / "config.json", write_hf_config(c));
  for (const Precision precision : {Precision::f32, Precision::fp8})
    EXPECT_EQ(load_error(folder, precision),
              (folder / "config.json").string() +
                  ": quantization_config: weight_block_size: expected [128, 128], found [100, 128]");
}

}  // namespace
}  // namespace sluice::test
