// The gradient of the whole training loss against differences of the loss itself, and what must not change it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "model/head.h"
#include "model/tiny_model.h"

namespace sluice::test {
namespace {

/// A model, a batch and a recipe.
struct Plan {
  std::string name;
  HfConfig config;
  int64_t mtp_modules;
  bool documents, routed_counts;
  friend void PrintTo(const Plan& p, std::ostream* out) { *out << p.name; }
};
const Plan kPlans[] = {{"two_mtp", tiny_config(), 2, false, false},
                       {"grouped", grouped_config(), 1, true, true},
                       {"v2", v2_config(), 0, false, false}};

constexpr int64_t kBatch = 2, kTokens = 7;

/// Values of a tree of float32 matrices, by name.
using Values = std::map<std::string, std::vector<float>>;

class Gradient : public testing::TestWithParam<Plan> {
 protected:
  Gradient()
      : model_(random_model(s_, GetParam().config, GetParam().mtp_modules)),
        batch_(random_batch(arena_, model_.config, kBatch, kTokens, GetParam().mtp_modules, GetParam().documents)) {
    options_.loss_scale = 1.0f / (kBatch * kTokens);
    options_.mtp_weight = 0.7f;
    options_.balance_alpha = 0.4f;
    options_.routed_counts = GetParam().routed_counts;
    counts_ = arena_.alloc(DType::i64, {num_routers(model_.weights), model_.config.n_routed_experts});
  }

  /// Gradients of the sum of the losses of `batches`. Leaves the tokens of every expert in counts_.
  Values gradients(const Model& m, const std::vector<ModelBatch>& batches, const PassOptions& options) {
    Model grad = allocate_f32_like(m);
    zero_counts();
    for (const ModelBatch& b : batches) {
      const size_t mark = arena_.mark();
      model_forward_backward(s_, arena_, m, grad.weights, b, options, counts_);
      arena_.release(mark);
    }
    Values all;
    for (const Param& p : parameters(grad.weights)) {
      const float* v = static_cast<const float*>(p.matrix->data);
      all[p.name] = {v, v + p.matrix->size()};
    }
    return all;
  }

  /// The loss whose gradient a pass computes, summed in double. Leaves the tokens of every expert in counts_.
  double loss() {
    const size_t mark = arena_.mark();
    zero_counts();
    const PassResult r = model_forward(s_, arena_, model_, batch_, options_, counts_);
    double mtp = 0, balance = 0;
    const double main = head_loss(r.normed_TD, batch_.target_T);
    for (size_t k = 0; k < r.mtp_normed.size(); ++k) mtp += head_loss(r.mtp_normed[k], batch_.mtp_target[k]);
    for (const Tensor& l : r.balance_loss) balance += sum(l);
    arena_.release(mark);
    const double modules = static_cast<double>(std::max<size_t>(r.mtp_normed.size(), 1));
    return double{options_.loss_scale} * (main + double{options_.mtp_weight} / modules * mtp) +
           double{options_.balance_alpha} / kBatch * balance;
  }

  static double sum(const Tensor& t) {
    double total = 0;
    for (int64_t i = 0; i < t.size(); ++i) total += double{t.f32()[i]};
    return total;
  }
  double head_loss(const Tensor& h_TD, const Tensor& target_T) {
    const Tensor loss_T = arena_.alloc(DType::f32, {h_TD.rows()});
    head_loss_forward(s_, arena_, arena_.alloc(DType::i32, {h_TD.rows()}), {h_TD, target_T, loss_T},
                      model_.weights.head);
    return sum(loss_T);
  }
  void zero_counts() { std::fill_n(counts_.ptr<int64_t>(), counts_.size(), 0); }
  std::vector<int64_t> counts() const { return {counts_.ptr<int64_t>(), counts_.ptr<int64_t>() + counts_.size()}; }

  Stream s_{1};
  Arena arena_{size_t{1} << 26};
  Model model_;
  ModelBatch batch_;
  PassOptions options_;
  Tensor counts_;
};

/// Matrices with the same role are one group over all main layers and all experts; each MTP module is apart.
std::string group_of(const std::string& name, int64_t main_layers) {
  constexpr std::string_view kLayers = "model.layers.", kExperts = "mlp.experts.";
  if (!name.starts_with(kLayers)) return name;
  const size_t dot = name.find('.', kLayers.size());
  const int layer = std::stoi(name.substr(kLayers.size()));
  std::string role = name.substr(dot + 1);
  if (role.starts_with(kExperts)) role = "mlp.experts" + role.substr(role.find('.', kExperts.size()));
  return (layer < main_layers ? "layers." : fmt::format("mtp.{}.", layer - main_layers)) + role;
}

/// Moves the weights of some matrices along a fixed direction: element i of matrix j by step * scale_j * normal_ij,
/// where scale_j is the root mean square of matrix j.
class Line {
 public:
  Line(const std::vector<Param>& params, const Values& grad, uint64_t seed) : params_(params) {
    Rng rng(seed);
    for (const Param& p : params_) {
      const float* v = static_cast<const float*>(p.matrix->data);
      const std::vector<float>& weights = origin_.emplace_back(v, v + p.matrix->size());
      double squares = 0;
      for (const float x : weights) squares += double{x} * double{x};
      const double scale = std::sqrt(squares / static_cast<double>(weights.size()));
      for (const float g : grad.at(p.name)) {
        direction_.push_back(scale * rng.normal());
        slope_ += double{g} * direction_.back();
        expected_squares_ += std::pow(double{g} * scale, 2);
      }
    }
  }

  void move(double step) const {
    size_t n = 0;
    for (size_t j = 0; j < params_.size(); ++j) {
      float* v = static_cast<float*>(params_[j].matrix->data);
      for (const float x : origin_[j]) *v++ = static_cast<float>(double{x} + step * direction_[n++]);
    }
  }
  /// d loss / d step by the gradient.
  double slope() const { return slope_; }
  /// Root mean square of slope() over all directions.
  double typical_slope() const { return std::sqrt(expected_squares_); }

 private:
  std::vector<Param> params_;
  std::vector<std::vector<float>> origin_;
  std::vector<double> direction_;
  double slope_ = 0, expected_squares_ = 0;
};

/// What central differences say of one direction: the slope with an error of fourth order in the step, and how far that
/// is from the one with an error of second order.
struct Difference {
  double slope, curvature;
};
template <class F>
Difference central_difference(F&& f, double h) {
  const double near = (f(h) - f(-h)) / (2 * h), far = (f(2 * h) - f(-2 * h)) / (4 * h);
  return {(4 * near - far) / 3, std::abs(near - far) / 3};
}

/// Errors are relative to the typical slope of the group: a wrong part of the gradient shows as its share of the norm.
/// The loss is about 4 with float32 errors of a few 1e-7, slopes are 0.01 to 1, steps 0.004 down to 0.00025, and what
/// passes kSmooth has a truncation error (or noise) of that order: measured 2e-3, over 16 seeds of the weights 5e-3.
constexpr double kTolerance = 1e-2, kSmooth = 1e-3;

TEST_P(Gradient, IsTheSlopeOfTheLoss) {
  const Values grad = gradients(model_, {batch_}, options_);
  const std::vector<int64_t> routed = counts();
  std::map<std::string, std::vector<Param>> groups;
  for (const Param& p : parameters(model_.weights))
    groups[group_of(p.name, model_.config.num_hidden_layers)].push_back(p);
  for (const auto& [name, params] : groups) {
    if (params[0].kind == ParamKind::router_bias) {  // outside the loss
      EXPECT_EQ(Line(params, grad, 0).typical_slope(), 0) << name;
      continue;
    }
    int directions = 0;
    for (uint64_t seed = 0; seed < 12 && directions < 3; ++seed) {
      const Line line(params, grad, seed);
      // Where a step changes what a token chooses, the loss jumps: a smaller step, or another direction.
      for (const double h : {0.004, 0.002, 0.001, 0.0005, 0.00025}) {
        bool same_choice = true;
        const Difference d = central_difference(
            [&](double step) {
              line.move(step);
              const double l = loss();
              same_choice &= counts() == routed;
              return l;
            },
            h);
        if (!same_choice || d.curvature > kSmooth * line.typical_slope()) continue;
        EXPECT_NEAR(d.slope, line.slope(), kTolerance * line.typical_slope()) << name << ", direction " << seed;
        ++directions;
        break;
      }
      line.move(0);
    }
    EXPECT_EQ(directions, 3) << name << ": too few directions without a jump";
  }
}

TEST_P(Gradient, IsOfTheReportedLosses) {
  const Model grad = allocate_f32_like(model_);
  const PassResult r = model_forward_backward(s_, arena_, model_, grad.weights, batch_, options_, {});
  double mtp = 0, balance = 0;
  for (const Tensor& l : r.mtp_loss) mtp += sum(l);
  for (const Tensor& l : r.balance_loss) balance += sum(l);
  const double modules = static_cast<double>(std::max<size_t>(r.mtp_loss.size(), 1));
  const double total = double{options_.loss_scale} * (sum(r.loss_T) + double{options_.mtp_weight} / modules * mtp) +
                       double{options_.balance_alpha} / kBatch * balance;
  EXPECT_NEAR(total, loss(), 1e-6 * total);
}

TEST_P(Gradient, KeepsItsBitsUnderRecomputation) {
  for (const Precision precision : {Precision::f32, Precision::bf16, Precision::fp8}) {
    const Model m = random_model(s_, GetParam().config, GetParam().mtp_modules, precision);
    PassOptions recompute = options_;
    recompute.recompute = true;
    const Values kept = gradients(m, {batch_}, options_), again = gradients(m, {batch_}, recompute);
    for (const auto& [name, g] : kept)
      EXPECT_EQ(std::memcmp(g.data(), again.at(name).data(), g.size() * sizeof(float)), 0)
          << name << ", precision " << static_cast<int>(precision);
  }
}

/// Sequence `row` of a batch as a batch of its own.
ModelBatch sequence(const ModelBatch& b, int64_t row) {
  const auto part = [&](const Tensor& t) {
    if (!t) return t;
    const int64_t n = t.size() / b.batch;
    return Tensor(t.ptr<int32_t>() + row * n, DType::i32, {n});
  };
  ModelBatch one{1, b.tokens, part(b.ids_T), part(b.first_T), part(b.target_T), {}};
  for (const Tensor& t : b.mtp_target) one.mtp_target.push_back(part(t));
  return one;
}

TEST_P(Gradient, OfABatchIsTheSumOverMicroBatches) {
  PassOptions micro = options_;
  micro.balance_scale = 0.5f;
  const Values whole = gradients(model_, {batch_}, options_);
  const std::vector<int64_t> routed = counts();
  const Values parts = gradients(model_, {sequence(batch_, 0), sequence(batch_, 1)}, micro);
  EXPECT_EQ(counts(), routed);
  for (const auto& [name, g] : whole) {
    double difference = 0, squares = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      difference += std::pow(double{g[i]} - double{parts.at(name)[i]}, 2);
      squares += std::pow(double{g[i]}, 2);
    }
    // Float32 sums in another order, through all layers (measured: 3e-6).
    EXPECT_LE(std::sqrt(difference), 5e-5 * std::sqrt(squares)) << name;
  }
}

TEST_P(Gradient, CountsEveryChoice) {
  zero_counts();
  model_forward(s_, arena_, model_, batch_, options_, counts_);
  std::vector<int64_t> positions;  // of every layer with experts
  for (const BlockWeights& l : model_.weights.layers)
    if (l.is_moe) positions.push_back(kTokens);
  for (size_t k = 0; k < model_.weights.mtp.size(); ++k)
    if (model_.weights.mtp[k].block.is_moe) positions.push_back(kTokens - 1 - static_cast<int64_t>(k));
  ASSERT_EQ(counts_.rows(), static_cast<int64_t>(positions.size()));
  for (int64_t l = 0; l < counts_.rows(); ++l) {
    const int64_t* row = counts_.slice_rows(l, 1).ptr<int64_t>();
    EXPECT_EQ(std::accumulate(row, row + counts_.cols(), int64_t{0}),
              kBatch * positions[static_cast<size_t>(l)] * model_.config.num_experts_per_tok);
  }
}

TEST_P(Gradient, BalanceCountsTheUnbiasedChoiceUnlessTold) {
  if (!*router_biases(model_.weights)[0]) return;  // V2 has no bias that could make a difference
  const auto balance = [&](bool routed_counts) {
    options_.routed_counts = routed_counts;
    const Tensor loss_B = model_forward(s_, arena_, model_, batch_, options_, {}).balance_loss[0];
    return std::vector<float>(loss_B.f32(), loss_B.f32() + kBatch);
  };
  const std::vector<float> unbiased = balance(false), routed = balance(true);
  static_cast<float*>(router_biases(model_.weights)[0]->data)[0] += 100;  // every token goes to expert 0
  EXPECT_EQ(balance(false), unbiased);
  EXPECT_NE(balance(true), routed);
}

INSTANTIATE_TEST_SUITE_P(Plans, Gradient, testing::ValuesIn(kPlans), [](const auto& plan) { return plan.param.name; });

}  // namespace
}  // namespace sluice::test
