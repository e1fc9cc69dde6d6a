#include "ops/optim.h"

#include "op_test.h"
#include "ops/quant.h"
#include "ops/ref/optim.h"

namespace sluice::test {
namespace {

constexpr int64_t kSizes[] = {1, 15, 1000, 70001};
// A large learning rate: the update is as large as the weights, so that its error shows.
constexpr AdamW kConfig{
    .lr = 0.5f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 0.25f, .step = 1};

void update(Stream& s, const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, const AdamW& config) {
  const AdamWTensor one{w, m, v, g, {}};
  adamw_step(s, {&one, 1}, config);
}

void add_squares(Stream& s, const Tensor& sum, const Tensor& x) { sum_squares(s, sum, {&x, 1}); }

TEST_P(OpTest, AdamWFromAnyState) {
  for (int64_t n : kSizes)
    for (int64_t step : {1, 2, 7, 100000}) {
      Host w = random_as(DType::f32, 1, n), m = random(1, n), v = random(1, n);
      Host g = random_as(DType::f32, 1, n);
      v.set([&] {
        Mat<double> squares = v.get();
        for (double& x : squares.data) x *= x;
        return squares;
      }());
      Mat<double> w_ref = w.get(), m_ref = m.get(), v_ref = v.get();
      AdamW config = kConfig;
      config.step = step;
      const Mat<double> gradient = g.get();
      run({&w, &m, &v, &g}, [&](Stream& s) { update(s, w, m, v, g, config); });
      EXPECT_EQ(g.get().data, std::vector<double>(static_cast<size_t>(n), 0.0));
      ref::adamw(w_ref, m_ref, v_ref, gradient, config);
      EXPECT_LT(diff(w.get(), w_ref), kTolF32) << n << " step " << step;
      EXPECT_LT(diff(m.get(), m_ref), tol()) << n << " step " << step;
      EXPECT_LT(diff(v.get(), v_ref), tol()) << n << " step " << step;
    }
}

// Tensors of many sizes in one call: each as alone, with its own decay, and rounded to its working weights.
TEST_P(OpTest, AdamWOfManyTensors) {
  const std::vector<int64_t> sizes = {1, 5000, 4096, 4097, 3, 70001, 0, 12};
  std::vector<Host> w, m, v, g, working, w_alone, m_alone, v_alone, g_alone;
  for (size_t i = 0; i < sizes.size(); ++i) {
    w.push_back(random_as(DType::f32, 1, sizes[i]));
    m.push_back(random(1, sizes[i]));
    v.push_back(output(1, sizes[i]).fill(0.5));
    g.push_back(random_as(DType::f32, 1, sizes[i]));
    working.emplace_back(i % 2 ? DType::bf16 : DType::f32, 1, sizes[i]);
  }
  w_alone = w, m_alone = m, v_alone = v, g_alone = g;
  std::vector<AdamWTensor> tensors;
  std::vector<Host*> outputs;
  for (size_t i = 0; i < sizes.size(); ++i) {
    tensors.push_back({w[i], m[i], v[i], g[i], i == 2 ? Matrix() : as_matrix(working[i]), i % 3 != 0});
    for (Host* h : {&w[i], &m[i], &v[i], &g[i], &working[i]}) outputs.push_back(h);
  }
  run(outputs, [&](Stream& s) { adamw_step(s, tensors, kConfig); });
  for (size_t i = 0; i < sizes.size(); ++i) {
    AdamW config = kConfig;
    if (i % 3 == 0) config.weight_decay = 0;
    run({&w_alone[i], &m_alone[i], &v_alone[i], &g_alone[i]},
        [&](Stream& s) { update(s, w_alone[i], m_alone[i], v_alone[i], g_alone[i], config); });
    EXPECT_TRUE(w[i].bytes() == w_alone[i].bytes() && m[i].bytes() == m_alone[i].bytes() &&
                v[i].bytes() == v_alone[i].bytes())
        << i;
    Host rounded(working[i].dtype(), 1, sizes[i]);
    if (i == 2) continue;  // has no working weights
    EXPECT_EQ(working[i].get().data, rounded.set(w[i].get()).get().data) << i;
  }
}

// Working weights in FP8 are those that quantising the new weights gives.
TEST_P(OpTest, AdamWQuantizes) {
  for (auto [rows, cols] : {std::pair{1, 1}, {130, 257}, {128, 256}, {3, 200}, {257, 136}}) {
    Host w = random_as(DType::f32, rows, cols), m = random(rows, cols), v = output(rows, cols).fill(0.5);
    Host g = random_as(DType::f32, rows, cols), w_alone = w, m_alone = m, v_alone = v, g_alone = g;
    Host codes(DType::f8_e4m3, rows, cols), scales(DType::f32, (rows + 127) / 128, (cols + 127) / 128);
    Host codes_after = codes, scales_after = scales;
    const auto working = [&](const Host& c, const Host& scale) {
      return Matrix{c.tensor().data, scale.tensor().f32(), Format::fp8_128, rows, cols};
    };
    run({&w, &m, &v, &g, &codes, &scales}, [&](Stream& s) {
      const AdamWTensor one{w, m, v, g, working(codes, scales)};
      adamw_step(s, {&one, 1}, kConfig);
    });
    run({&w_alone, &m_alone, &v_alone, &g_alone},
        [&](Stream& s) { update(s, w_alone, m_alone, v_alone, g_alone, kConfig); });
    run({&codes_after, &scales_after},
        [&](Stream& s) { quantize_weight(s, working(codes_after, scales_after), w_alone, false); });
    EXPECT_TRUE(w.bytes() == w_alone.bytes() && m.bytes() == m_alone.bytes() && v.bytes() == v_alone.bytes() &&
                g.bytes() == g_alone.bytes())
        << rows << "x" << cols;
    EXPECT_TRUE(codes.bytes() == codes_after.bytes()) << rows << "x" << cols;
    EXPECT_TRUE(scales.bytes() == scales_after.bytes()) << rows << "x" << cols;
  }
}

TEST_P(OpTest, AdamWOverSteps) {
  const int64_t n = 333;
  Host w = random_as(DType::f32, 1, n), m = output(1, n).fill(0), v = output(1, n).fill(0);
  Mat<double> w_ref = w.get(), m_ref = m.get(), v_ref = v.get();
  AdamW config = kConfig;
  for (config.step = 1; config.step <= 10; ++config.step) {
    Host g = random_as(DType::f32, 1, n);
    const Mat<double> gradient = g.get();
    run({&w, &m, &v, &g}, [&](Stream& s) { update(s, w, m, v, g, config); });
    ref::adamw(w_ref, m_ref, v_ref, gradient, config);
  }
  EXPECT_LT(diff(w.get(), w_ref), 3 * tol());
  EXPECT_LT(diff(m.get(), m_ref), 3 * tol());
  EXPECT_LT(diff(v.get(), v_ref), 3 * tol());
}

TEST_P(OpTest, AdamWRoundsMomentsToNearestEven) {
  // 0.9 m + 0.1 g with g = m = 1 + 2^-8 (a tie) and 1 + 3 2^-8 must round to even in bf16, and stay in f32.
  const Mat<double> value = Host(DType::f32, 1, 2).set(std::vector<double>{1 + 0x1p-8, 1 + 0x3p-8}).get();
  AdamW config = kConfig;
  config.beta1 = 0, config.beta2 = 0, config.grad_scale = 1;
  Host w = Host(DType::f32, 1, 2).fill(0), m = output(1, 2).fill(0), v = output(1, 2).fill(0), expected = output(1, 2);
  Host g = Host(DType::f32, 1, 2).set(value);
  run({&w, &m, &v, &g}, [&](Stream& s) { update(s, w, m, v, g, config); });
  EXPECT_EQ(m.get().data, expected.set(value).get().data);
}

TEST_P(OpTest, AdamWOfZeroGradientOnlyDecays) {
  Host w = Host(DType::f32, 1, 40).fill(2), m = output(1, 40).fill(0), v = output(1, 40).fill(0);
  Host g = Host(DType::f32, 1, 40).fill(0);
  run({&w, &m, &v, &g}, [&](Stream& s) { update(s, w, m, v, g, kConfig); });
  for (double x : w.get().data) EXPECT_NEAR(x, 2 * (1 - 0.5 * 0.1), 1e-6);
  EXPECT_EQ(v.get().data, std::vector<double>(40, 0.0));
}

TEST_P(FixedOpTest, SumSquaresAdds) {
  for (int64_t n : kSizes) {
    const Host x = random(1, n);
    Host sum = Host(DType::f64, 1).fill(3);
    run({&sum}, [&](Stream& s) { add_squares(s, sum, x); });
    EXPECT_NEAR(sum.get()[0] / (3 + ref::sum_squares(x.get())), 1, 1e-12) << n;
  }
}

TEST_P(FixedOpTest, SumSquaresDependsOnTheNumbersAlone) {
  const int64_t n = 70000;
  const Host x = random(1, n), strided = Host(DType::f32, 1, n, Rows::strided).set(x.get());
  const Host rows = Host(DType::f32, 700, 100).set(x.get());
  Host sum = Host(DType::f64, 1).fill(0), shifted = sum, reshaped = sum;
  run({&sum}, [&](Stream& s) { add_squares(s, sum, x); });
  run({&shifted}, [&](Stream& s) { add_squares(s, shifted, strided); });
  run({&reshaped}, [&](Stream& s) { add_squares(s, reshaped, rows); });
  EXPECT_TRUE(sum.bytes() == shifted.bytes()) << "depends on the alignment";
  EXPECT_TRUE(sum.bytes() == reshaped.bytes()) << "depends on the shape";
}

TEST_P(FixedOpTest, SumSquaresOfManyTensors) {
  std::vector<Host> x;
  std::vector<Tensor> tensors;
  double expected = 0;
  for (const int64_t n : {3, 70001, 0, 16384, 16385, 1}) x.push_back(random(1, n));
  for (const Host& h : x) {
    tensors.push_back(h);
    expected += ref::sum_squares(h.get());
  }
  Host sum = Host(DType::f64, 1).fill(0);
  run({&sum}, [&](Stream& s) { sum_squares(s, sum, tensors); });
  EXPECT_NEAR(sum.get()[0] / expected, 1, 1e-12);
}

TEST_P(FixedOpTest, SumSquaresOfHugeAndTinyNumbers) {
  std::vector<double> values(200, 1e-30);
  for (double huge : {1.0, 1e30}) {  // squares that float32 cannot hold
    values[70] = values[199] = huge;
    const Host x = Host(DType::f32, 1, 200).set(values);
    Host sum = Host(DType::f64, 1).fill(0);
    run({&sum}, [&](Stream& s) { add_squares(s, sum, x); });
    EXPECT_NEAR(sum.get()[0] / ref::sum_squares(x.get()), 1, 1e-12);
  }
  const Host tiny = Host(DType::f32, 1, 200).fill(1e-30);
  Host sum = Host(DType::f64, 1).fill(0);
  run({&sum}, [&](Stream& s) { add_squares(s, sum, tiny); });
  EXPECT_NEAR(sum.get()[0] / ref::sum_squares(tiny.get()), 1, 1e-12);
}

TEST_P(FixedOpTest, EmaUpdate) {
  for (int64_t n : kSizes) {
    Host average = random(1, n);
    const Host w = random(1, n);
    const Mat<double> expected = ref::ema(average.get(), w.get(), static_cast<double>(0.99f));
    run({&average}, [&](Stream& s) { ema_update(s, average, w, 0.99f); });
    EXPECT_LT(diff(average.get(), expected), tol()) << n;
  }
}

}  // namespace
}  // namespace sluice::test
