#include "golden/fixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/transfer.h"
#include "ops/elementwise.h"
#include "train/optimizer.h"

namespace sluice {
namespace {

std::vector<int64_t> integers(const SafetensorsEntry& e) {
  std::vector<int64_t> v(static_cast<size_t>(e.size()));
  std::memcpy(v.data(), e.bytes.data(), e.bytes.size());
  return v;
}

/// ||a - b|| / ||b||, where a tensor that should be zero must be.
double relative_norm(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  if (a.size() != b.size()) return INFINITY;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

Model load_onto(Stream& s, const fs::path& folder) {
  Stream host(2);
  Model model = load_model(host, folder, Precision::f32);
  return s.is_cuda() ? upload_model(s, model) : std::move(model);
}

}  // namespace

GoldenFixture::GoldenFixture(Stream& s, const fs::path& folder)
    : s_(s), folder_(folder), model_(load_onto(s, folder)), arena_(size_t{1} << 30, s.device()) {}

std::vector<float> GoldenFixture::read(const Tensor& t) {
  std::vector<float> values(static_cast<size_t>(t.size()));
  download(s_, Tensor(values.data(), {t.rows(), t.cols()}), t);
  return values;
}

Tensor GoldenFixture::ids_tensor(const std::vector<int32_t>& ids) {
  const int64_t n = static_cast<int64_t>(ids.size());
  const Tensor t = arena_.alloc(DType::i32, {n});
  upload(s_, t, Tensor(const_cast<int32_t*>(ids.data()), DType::i32, {n}));
  return t;
}

double GoldenFixture::total(const Tensor& loss) {
  double sum = 0;
  for (const float v : read(loss)) sum += static_cast<double>(v);
  return sum;
}

void GoldenFixture::check_all() {
  if (fs::exists(folder_ / "expected.safetensors")) {
    const SafetensorsFile expected(folder_ / "expected.safetensors");
    if (expected.find("logits")) check_forward(expected);
    if (expected.find("greedy")) check_greedy(expected);
    if (expected.find("grad.lm_head.weight")) check_gradients(expected);
    if (expected.find("balance_loss")) check_balance(expected);
  }
  if (fs::exists(folder_ / "expected_train.safetensors"))
    check_training(SafetensorsFile(folder_ / "expected_train.safetensors"));
}

ModelBatch GoldenFixture::batch_of(const SafetensorsEntry& ids, int64_t row0, int64_t rows) {
  const int64_t S = ids.shape.back();
  const std::vector<int64_t> all = integers(ids);
  ModelBatch b;
  b.batch = rows;
  b.tokens = S;
  std::vector<int32_t> id, target;
  for (int64_t i = 0; i < rows * S; ++i) {
    const size_t at = static_cast<size_t>(row0 * S + i);
    id.push_back(static_cast<int32_t>(all[at]));
    target.push_back(i % S + 1 < S ? static_cast<int32_t>(all[at + 1]) : -1);
  }
  b.ids_T = ids_tensor(id);
  b.target_T = ids_tensor(target);
  for (int64_t k = 0; k < static_cast<int64_t>(model_.weights.mtp.size()); ++k) {
    const int64_t n = S - 1 - k;
    target.clear();
    for (int64_t i = 0; i < rows * n; ++i) {
      const size_t at = static_cast<size_t>(row0 * S + i / n * S + i % n + 2 + k);
      target.push_back(i % n + 2 + k < S ? static_cast<int32_t>(all[at]) : -1);
    }
    b.mtp_target.push_back(ids_tensor(target));
  }
  return b;
}

void GoldenFixture::note(const char* what, double error, double limit) {
  ++checks_;
  summary_ += fmt::format("{} {:.1e}  ", what, error);
  EXPECT_LE(error, limit) << what;
  EXPECT_FALSE(std::isnan(error)) << what;
}

void GoldenFixture::compare_max(const char* what, const Tensor& got, const std::vector<float>& expected, double limit) {
  ASSERT_EQ(got.size(), static_cast<int64_t>(expected.size())) << what;
  const std::vector<float> values = read(got);
  double difference = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(values[i]) - expected[i]));
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    if (std::isnan(values[i])) difference = INFINITY;
  }
  note(what, difference / largest, limit);
}

void GoldenFixture::check_hidden(const SafetensorsFile& expected, const PassResult& result) {
  double worst = 0;
  int64_t found = 0;
  for (size_t k = 0; k < result.hidden.size(); ++k) {
    const SafetensorsEntry* e = expected.find(fmt::format("hidden.{}", k));
    if (!e) continue;
    ++found;
    const Tensor& h = k + 1 == result.hidden.size() ? result.normed_TD : result.hidden[k];
    worst = std::max(worst, relative_norm(read(h), e->read_f32()));
  }
  if (found) note("hidden", worst, 2e-4);
}

void GoldenFixture::check_forward(const SafetensorsFile& expected) {
  const size_t mark = arena_.mark();
  const SafetensorsEntry& ids = expected.get("input_ids");
  const ModelBatch b = batch_of(ids, 0, ids.shape[0]);
  const PassResult r = model_forward(s_, arena_, model_, b, {}, {});
  const Tensor logits = arena_.f32(b.batch * b.tokens, model_.config.vocab_size);
  model_logits(s_, logits, r.normed_TD, model_);
  compare_max("logits", logits, expected.get("logits").read_f32(), 2e-4);
  check_hidden(expected, r);
  if (const SafetensorsEntry* e = expected.find("mtp_logits")) {
    ASSERT_EQ(r.mtp_normed.size(), 1u) << "the folder expects an MTP module";
    const Tensor mtp_logits = arena_.f32(b.batch * (b.tokens - 1), model_.config.vocab_size);
    model_logits(s_, mtp_logits, r.mtp_normed[0], model_);
    compare_max("mtp_logits", mtp_logits, e->read_f32(), 2e-4);
  }
  arena_.release(mark);
}

void GoldenFixture::check_greedy(const SafetensorsFile& expected) {
  const SafetensorsEntry& e = expected.get("greedy");
  const std::vector<int64_t> ids = integers(e);
  const int64_t V = model_.config.vocab_size, n = e.shape.back();
  constexpr int64_t kPrompt = 16;
  const size_t mark = arena_.mark();
  const ModelBatch b = batch_of(e, 0, 1);
  const PassResult r = model_forward(s_, arena_, model_, b, {}, {});
  const Tensor logits = arena_.f32(n, V);
  model_logits(s_, logits, r.normed_TD, model_);
  const std::vector<float> values = read(logits);
  int64_t wrong = 0;
  for (int64_t t = kPrompt; t < n; ++t) {
    const float* row = values.data() + (t - 1) * V;
    wrong += std::max_element(row, row + V) - row != ids[static_cast<size_t>(t)];
  }
  note("greedy tokens wrong", static_cast<double>(wrong), 0);
  arena_.release(mark);
}

void GoldenFixture::check_gradients(const SafetensorsFile& expected) {
  const bool sums = expected.find("loss_sum.main") != nullptr;
  for (const bool recompute : {false, true}) {
    const size_t mark = arena_.mark();
    Optimizer optimizer(s_, model_, {});
    const SafetensorsEntry& ids = expected.get("input_ids");
    const ModelBatch b = batch_of(ids, 0, ids.shape[0]);
    PassOptions o;
    o.recompute = recompute;
    o.loss_scale = sums ? 1.0f : 1.0f / static_cast<float>(b.batch * (b.tokens - 1));
    o.mtp_weight = 0.3f;
    const PassResult r = model_forward_backward(s_, arena_, model_, optimizer.grad(), b, o, {});
    const float main = expected.get(sums ? "loss_sum.main" : "loss").read_f32()[0];
    note("loss", std::abs(total(r.loss_T) * (sums ? 1.0 : static_cast<double>(o.loss_scale)) / main - 1), 1e-5);
    if (sums) note("mtp loss", std::abs(total(r.mtp_loss[0]) / expected.get("loss_sum.mtp").read_f32()[0] - 1), 1e-5);
    std::map<std::string, std::vector<float>> fused;
    double worst = 0;
    int64_t compared = 0;
    for (const Param& p : parameters(optimizer.grad())) {
      const std::vector<float> g = read(p.matrix->tensor());
      if (const SafetensorsEntry* e = expected.find("grad." + p.name)) {
        worst = std::max(worst, relative_norm(g, e->read_f32()));
        ++compared;
      } else if (const size_t at = p.name.find("mlp.experts."); at != std::string::npos) {
        const std::string bank = p.name.substr(0, at) + "mlp.experts.";
        auto& v = fused[bank + (p.name.find("down_proj") != std::string::npos ? "down_proj" : "gate_up_proj")];
        v.insert(v.end(), g.begin(), g.end());
      }
    }
    for (const auto& [name, values] : fused) {
      const SafetensorsEntry* e = expected.find("grad." + name);
      if (!e) continue;
      ASSERT_EQ(e->size(), static_cast<int64_t>(values.size())) << name;
      worst = std::max(worst, relative_norm(values, e->read_f32()));
      ++compared;
    }
    int64_t stored = 0;
    for (const SafetensorsEntry& e : expected.entries()) stored += e.name.starts_with("grad.");
    EXPECT_EQ(compared, stored) << "gradients expected but not computed";
    note(recompute ? "gradients recomputed" : "gradients", worst, 2e-4);
    arena_.release(mark);
  }
}

void GoldenFixture::check_balance(const SafetensorsFile& expected) {
  const size_t mark = arena_.mark();
  Optimizer optimizer(s_, model_, {});
  const SafetensorsEntry& ids = expected.get("input_ids");
  const ModelBatch b = batch_of(ids, 0, ids.shape[0]);
  PassOptions o;
  o.loss_scale = 0;
  o.balance_alpha = 1;
  const PassResult r = model_forward_backward(s_, arena_, model_, optimizer.grad(), b, o, {});
  const std::vector<float> losses = expected.get("balance_loss").read_f32();
  ASSERT_EQ(losses.size(), r.balance_loss.size());
  double worst = 0;
  for (size_t i = 0; i < losses.size(); ++i)
    worst = std::max(worst, std::abs(total(r.balance_loss[i]) / static_cast<double>(b.batch) / losses[i] - 1));
  note("balance loss", worst, 1e-5);
  worst = 0;
  size_t gate = 0;
  int64_t compared = 0, stored = 0;
  for (const Param& p : parameters(optimizer.grad())) {
    const SafetensorsEntry* e = nullptr;
    if (p.kind == ParamKind::router) e = expected.find(fmt::format("balance_grad.gate.{}", gate++));
    if (p.kind == ParamKind::embedding) e = expected.find("balance_grad.embed_tokens");
    if (!e) continue;
    worst = std::max(worst, relative_norm(read(p.matrix->tensor()), e->read_f32()));
    ++compared;
  }
  for (const SafetensorsEntry& e : expected.entries()) stored += e.name.starts_with("balance_grad.");
  EXPECT_EQ(compared, stored) << "balance gradients expected but not computed";
  note("balance gradients", worst, 2e-4);
  arena_.release(mark);
}

void GoldenFixture::check_training(const SafetensorsFile& expected) {
  const SafetensorsEntry& batches = expected.get("batches");
  const int64_t steps = batches.shape[0], B = batches.shape[1], S = batches.shape[2],
                E = model_.config.n_routed_experts;
  const std::vector<float> main = expected.get("loss.main").read_f32(), mtp = expected.get("loss.mtp").read_f32(),
                           norms = expected.get("grad_norm").read_f32();
  const std::vector<int64_t> expected_counts = integers(expected.get("expert_counts"));
  const int64_t routers = num_routers(model_.weights);
  Optimizer optimizer(s_, model_, {});
  PassOptions o;
  o.loss_scale = 1.0f / static_cast<float>(B * (S - 1));
  o.mtp_weight = 0.3f;
  double loss_error = 0, norm_error = 0;
  int64_t count_error = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const size_t mark = arena_.mark(), i = static_cast<size_t>(step);
    const Tensor counts = arena_.alloc(DType::i64, {routers, E});
    zero(s_, counts);
    const PassResult r =
        model_forward_backward(s_, arena_, model_, optimizer.grad(), batch_of(batches, step * B, B), o, counts);
    const double scale = static_cast<double>(o.loss_scale);
    loss_error = std::max({loss_error, std::abs(total(r.loss_T) * scale / main[i] - 1),
                           std::abs(total(r.mtp_loss[0]) * scale / mtp[i] - 1)});
    const double norm = optimizer.grad_norm(s_);
    norm_error = std::max(norm_error, std::abs(norm / norms[i] - 1));
    optimizer.step(s_, 1e-3f, norm);
    const std::vector<Matrix*> biases = router_biases(model_.weights);
    for (int64_t l = 0; l < routers; ++l) {
      const Tensor row(counts.at(l), DType::i64, {E});
      moe_bias_update(s_, biases[static_cast<size_t>(l)]->tensor(), row, 0.001f);
    }
    std::vector<int64_t> counted(static_cast<size_t>(routers * E));
    download(s_, Tensor(counted.data(), DType::i64, {routers, E}), counts);
    for (size_t j = 0; j < counted.size(); ++j)
      count_error = std::max(count_error, std::abs(counted[j] - expected_counts[i * counted.size() + j]));
    arena_.release(mark);
  }
  note("train loss", loss_error, 1e-5);
  note("grad_norm", norm_error, 1e-5);
  note("expert counts off", static_cast<double>(count_error), 0);
  double bias_error = 0, final_error = 0;
  const std::vector<Matrix*> biases = router_biases(model_.weights);
  for (size_t l = 0; l < biases.size(); ++l) {
    const std::vector<float> b = expected.get(fmt::format("bias.{}", l)).read_f32();
    const std::vector<float> bias = read(biases[l]->tensor());
    for (size_t e = 0; e < b.size(); ++e)
      bias_error = std::max(bias_error, std::abs(static_cast<double>(bias[e]) - static_cast<double>(b[e])));
  }
  note("biases", bias_error, 1e-6);
  for (const Param& p : parameters(model_.weights))
    final_error =
        std::max(final_error, relative_norm(read(p.matrix->tensor()), expected.get("final." + p.name).read_f32()));
  note("final weights", final_error, 2e-4);
}

}  // namespace sluice
