#include "ops/linear.h"

#include "op_test.h"
#include "ops/quant.h"
#include "ops/ref/quant.h"

namespace sluice::test {
namespace {

struct Shape {
  int64_t tokens, inputs, outputs;
};
const Shape kShapes[] = {{1, 1, 1},      {1, 128, 128},   {5, 100, 60},    {128, 128, 128},
                         {130, 300, 70}, {257, 129, 385}, {300, 256, 513}, {129, 640, 20}};

/// A quantised weight and its values.
struct Weight {
  SharedVector<uint8_t> codes;
  Host scales;
  Matrix matrix;
  Mat<double> values;
  explicit Weight(const Mat<double>& w, bool power_of_two = false)
      : codes(static_cast<size_t>(w.size())), scales(DType::f32, (w.rows + 127) / 128, (w.cols + 127) / 128) {
    matrix = {codes.data(), scales.tensor().f32(), Format::fp8_128, w.rows, w.cols};
    quantize_weight(stream(1), matrix, Host(DType::f32, w.rows, w.cols).set(w), power_of_two);
    values = ref::quantize(Host(DType::f32, w.rows, w.cols).set(w).get(), 128, 128, power_of_two).values();
  }
  Weight(const Weight&) = delete;
};

Matrix gradient(const Host& dw) { return as_matrix(dw.tensor()); }

/// What Hopper's tensor cores lose of the sums of 128 products of codes (specification 5.3).
double fp8_tol(double tol) { return tested_device() == Device::Kind::cuda ? std::max(tol, 1e-3) : tol; }

/// Rows and groups of 128 columns of very different magnitude, so that a scale in the wrong place shows.
Mat<double> uneven(Rng& rng, int64_t rows, int64_t cols) {
  Mat<double> m(rows, cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) m(i, j) = std::ldexp(rng.normal(), static_cast<int>((7 * i + j / 128 * 5) % 9));
  return m;
}

TEST_P(OpTest, Fp8ForwardIsTheReference) {
  for (const Shape& shape : kShapes)
    for (bool power_of_two : {false, true})
      for (Out out : {Out::set, Out::add}) {
        const Weight w(uneven(rng_, shape.outputs, shape.inputs), power_of_two);
        const Host x =
            Host(dtype(), shape.tokens, shape.inputs, Rows::strided).set(uneven(rng_, shape.tokens, shape.inputs));
        Host y = output(shape.tokens, shape.outputs, Rows::strided);
        Mat<double> expected = ref::fp8_forward(x.get(), w.values);
        if (out == Out::add) expected = ref::plus(expected, y.set(uneven(rng_, y.rows(), y.cols())).get());
        run({&y}, [&](Stream& s) { linear_forward(s, y, x, w.matrix, out); });
        EXPECT_LT(diff(y.get(), expected), fp8_tol(tol()))
            << shape.tokens << "x" << shape.inputs << "x" << shape.outputs;
      }
}

TEST_P(OpTest, Fp8BackwardInputIsTheReference) {
  for (const Shape& shape : kShapes)
    for (Out out : {Out::set, Out::add}) {
      const Weight w(uneven(rng_, shape.outputs, shape.inputs));
      const Host dy =
          Host(dtype(), shape.tokens, shape.outputs, Rows::strided).set(uneven(rng_, shape.tokens, shape.outputs));
      Host dx = output(shape.tokens, shape.inputs, Rows::strided);
      Mat<double> expected = ref::fp8_backward_input(dy.get(), w.values);
      if (out == Out::add) expected = ref::plus(expected, dx.set(uneven(rng_, dx.rows(), dx.cols())).get());
      run({&dx}, [&](Stream& s) { linear_backward_input(s, dx, dy, w.matrix, out); });
      EXPECT_LT(diff(dx.get(), expected), fp8_tol(tol()))
          << shape.tokens << "x" << shape.inputs << "x" << shape.outputs;
    }
}

/// Column j times 2^(sign (j mod 20)).
Mat<double> scaled_columns(Mat<double> m, int sign) {
  for (int64_t i = 0; i < m.size(); ++i) m[i] = std::ldexp(m[i], sign * static_cast<int>(i % m.cols % 20));
  return m;
}

// x has small channels, which are E4M3 subnormals in the tiles of rows but not in those of columns: they tell whether x
// went through the former. All channels weigh the same in the comparison.
TEST_P(OpTest, Fp8BackwardWeightIsTheReference) {
  for (const Shape& shape : kShapes) {
    const Host x = Host(dtype(), shape.tokens, shape.inputs, Rows::strided)
                       .set(scaled_columns(uneven(rng_, shape.tokens, shape.inputs), -1));
    const Host dy =
        Host(dtype(), shape.tokens, shape.outputs, Rows::strided).set(uneven(rng_, shape.tokens, shape.outputs));
    Host dw(DType::f32, shape.outputs, shape.inputs);
    dw.set(scaled_columns(uneven(rng_, shape.outputs, shape.inputs), -1));
    const Mat<double> expected = ref::plus(ref::fp8_backward_weight(dy.get(), x.get()), dw.get());
    run({&dw}, [&](Stream& s) { linear_backward_weight(s, gradient(dw), dy, x, Format::fp8_128); });
    EXPECT_LT(diff(scaled_columns(dw.get(), 1), scaled_columns(expected, 1)), fp8_tol(kTolF32))
        << shape.tokens << "x" << shape.inputs << "x" << shape.outputs;
  }
}

// The error of the recipe itself on normal numbers: each quantised operand adds about 2.6%.
TEST_P(FixedOpTest, Fp8ErrorIsThatOfThreeMantissaBits) {
  const Mat<double> w = random(320, 384).get();
  const Weight weight(w);
  const Host x = random(256, 384), dy = random(256, 320);
  Host y(DType::f32, 256, 320), dx(DType::f32, 256, 384), dw = Host(DType::f32, 320, 384).fill(0);
  run({&y, &dx, &dw}, [&](Stream& s) {
    linear_forward(s, y, x, weight.matrix);
    linear_backward_input(s, dx, dy, weight.matrix);
    linear_backward_weight(s, gradient(dw), dy, x, Format::fp8_128);
  });
  const double forward = diff(y.get(), ref::linear(x.get(), w));
  const double backward_input = diff(dx.get(), ref::linear(dy.get(), ref::transposed(w)));
  const double backward_weight = diff(dw.get(), ref::linear(ref::transposed(dy.get()), ref::transposed(x.get())));
  for (double error : {forward, backward_input, backward_weight}) {
    RecordProperty("error", std::to_string(error));
    EXPECT_LT(error, 0.04);
    EXPECT_GT(error, 0.03);
  }
}

std::vector<double> rows_from(const Mat<double>& m, int64_t first) {
  return {m.data.begin() + first * m.cols, m.data.end()};
}

// An expert's rows, a slice of a longer tensor, begin a tile of their own; no rows change nothing.
TEST_P(OpTest, Fp8ProductsOfSlicesOfRows) {
  const Weight w(uneven(rng_, 140, 200));
  const Host x = Host(dtype(), 300, 200).set(uneven(rng_, 300, 200));
  const Host dy = Host(dtype(), 300, 140).set(uneven(rng_, 300, 140));
  for (const auto& slice : {std::pair{0, 0}, {3, 1}, {70, 200}, {300, 0}}) {
    const int64_t first = slice.first, rows = slice.second;
    Host part_x(dtype(), rows, 200), part_dy(dtype(), rows, 140);
    part_x.set(rows_from(x.get(), first));
    part_dy.set(rows_from(dy.get(), first));
    Host y = output(300, 140), dw = random_as(DType::f32, 140, 200);
    const Mat<double> expected = ref::plus(ref::fp8_backward_weight(part_dy.get(), part_x.get()), dw.get());
    const Tensor sliced_x = x.tensor().slice_rows(first, rows), sliced_dy = dy.tensor().slice_rows(first, rows);
    run({&dw}, [&](Stream& s) { linear_backward_weight(s, gradient(dw), sliced_dy, sliced_x, Format::fp8_128); });
    EXPECT_LT(diff(dw.get(), expected), fp8_tol(kTolF32));
    run({&y}, [&](Stream& s) { linear_forward(s, y.tensor().slice_rows(first, rows), sliced_x, w.matrix, Out::set); });
    const Mat<double> got = y.get();
    for (int64_t t = 0; t < 300; ++t) EXPECT_EQ(std::isnan(got(t, 0)), t < first || t >= first + rows) << t;
  }
}

// The contract's three products reach this code for a matrix of format fp8_128, expert by expert.
TEST_P(OpTest, GroupedLinearUsesTheRecipePerExpert) {
  const Weight first(uneven(rng_, 60, 140)), second(uneven(rng_, 60, 140)), third(uneven(rng_, 60, 140));
  const Weight* experts[] = {&first, &second, &third};
  const Matrix bank[] = {first.matrix, second.matrix, third.matrix};
  const std::vector<int64_t> start = {0, 130, 130, 170};
  const Host offsets = i32_vector(start), x = Host(dtype(), 170, 140).set(uneven(rng_, 170, 140));
  const Host dy = Host(dtype(), 170, 60).set(uneven(rng_, 170, 60));
  Host y = output(170, 60), dx = output(170, 140),
       dw[] = {random_as(DType::f32, 60, 140), random_as(DType::f32, 60, 140), random_as(DType::f32, 60, 140)};
  Host dw_alone[] = {dw[0], dw[1], dw[2]}, y_alone = y, dx_alone = dx;
  const Matrix gradients[] = {gradient(dw[0]), gradient(dw[1]), gradient(dw[2])};
  run({&y, &dx, &dw[0], &dw[1], &dw[2]}, [&](Stream& s) {
    grouped_linear_forward(s, y, x, offsets, bank);
    grouped_linear_backward_input(s, dx, dy, offsets, bank);
    grouped_linear_backward_weight(s, gradients, dy, x, offsets, Format::fp8_128);
  });
  for (size_t e = 0; e < 3; ++e) {
    const auto part = [&](const Host& h) { return h.tensor().slice_rows(start[e], start[e + 1] - start[e]); };
    run({&y_alone, &dx_alone, &dw_alone[e]}, [&](Stream& s) {
      linear_forward(s, part(y_alone), part(x), experts[e]->matrix);
      linear_backward_input(s, part(dx_alone), part(dy), experts[e]->matrix);
      linear_backward_weight(s, gradient(dw_alone[e]), part(dy), part(x), Format::fp8_128);
    });
    EXPECT_TRUE(dw[e].bytes() == dw_alone[e].bytes()) << e;
  }
  EXPECT_TRUE(y.bytes() == y_alone.bytes());
  EXPECT_TRUE(dx.bytes() == dx_alone.bytes());
  EXPECT_LT(diff(y.get(), ref::grouped_linear(ref::quantize(x.get(), 1, 128, true).values(), start,
                                              {first.values, second.values, third.values})),
            fp8_tol(tol()));
}

/// The weights of a layer's experts, at equal distances in memory.
struct Experts {
  std::vector<int64_t> start;
  SharedVector<uint8_t> codes;
  Host scales;
  std::vector<Matrix> matrices;
  std::vector<Mat<double>> values;
  Experts(Rng& rng, std::vector<int64_t> first_rows, int64_t outputs, int64_t inputs)
      : start(std::move(first_rows)),
        codes(static_cast<size_t>(count() * outputs * inputs)),
        scales(DType::f32, count() * ((outputs + 127) / 128), (inputs + 127) / 128) {
    for (int64_t e = 0; e < count(); ++e) {
      const Host w = Host(DType::f32, outputs, inputs).set(uneven(rng, outputs, inputs));
      Matrix m{codes.data() + e * outputs * inputs, nullptr, Format::fp8_128, outputs, inputs};
      m.scales = scales.tensor().f32() + e * m.scale_rows() * m.scale_cols();
      quantize_weight(stream(1), m, w, false);
      matrices.push_back(m);
      values.push_back(ref::quantize(w.get(), 128, 128, false).values());
    }
  }
  int64_t count() const { return static_cast<int64_t>(start.size()) - 1; }
  Tensor rows(const Host& h, size_t e) const { return h.tensor().slice_rows(start[e], start[e + 1] - start[e]); }
  Mat<double> values_of(const Host& h, size_t e) const {
    Mat<double> m(start[e + 1] - start[e], h.cols());
    const Mat<double> all = h.get();
    std::copy_n(all.data.begin() + start[e] * h.cols(), m.size(), m.data.begin());
    return m;
  }
};

// Sizes, addresses and distances that suit the GPU's copy engine: there, kernels of their own. Experts without rows,
// with one, with more and with fewer than a tile; what lies behind the last row stays.
TEST_P(OpTest, Fp8ProductsOfAlignedRows) {
  const int64_t T = 609, K = 272, N = 392;
  const Experts experts(rng_, {0, 300, 300, 301, 560, 602}, N, K);
  const Host offsets = i32_vector(experts.start), x = Host(dtype(), T, K).set(uneven(rng_, T, K));
  const Host dy = Host(dtype(), T, N).set(uneven(rng_, T, N));
  for (const Out out : {Out::set, Out::add}) {
    Host y = output(T, N), dx = output(T, K);
    if (out == Out::add) y.set(uneven(rng_, T, N)), dx.set(uneven(rng_, T, K));
    const Host y_before = y, dx_before = dx;
    Host y_alone = y, dx_alone = dx;
    run({&y, &dx}, [&](Stream& s) {
      grouped_linear_forward(s, y, x, offsets, experts.matrices, out);
      grouped_linear_backward_input(s, dx, dy, offsets, experts.matrices, out);
    });
    run({&y_alone, &dx_alone}, [&](Stream& s) {
      for (size_t e = 0; e < experts.matrices.size(); ++e) {
        linear_forward(s, experts.rows(y_alone, e), experts.rows(x, e), experts.matrices[e], out);
        linear_backward_input(s, experts.rows(dx_alone, e), experts.rows(dy, e), experts.matrices[e], out);
      }
    });
    EXPECT_TRUE(y.bytes() == y_alone.bytes() && dx.bytes() == dx_alone.bytes());
    for (size_t e : {0, 2, 3, 4}) {
      const auto part = [&](const Host& h) { return experts.values_of(h, e); };
      Mat<double> forward = ref::fp8_forward(part(x), experts.values[e]);
      Mat<double> backward = ref::fp8_backward_input(part(dy), experts.values[e]);
      if (out == Out::add)
        forward = ref::plus(forward, part(y_before)), backward = ref::plus(backward, part(dx_before));
      EXPECT_LT(diff(part(y), forward), fp8_tol(tol())) << e;
      EXPECT_LT(diff(part(dx), backward), fp8_tol(tol())) << e;
    }
  }
}

TEST_P(FixedOpTest, Fp8KeepsNonFiniteHugeAndZero) {
  const Weight w(random(130, 140).get());
  Mat<double> m = random(5, 140).get();
  m(0, 3) = std::nan("");
  m(4, 139) = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < 140; ++j) {
    m(1, j) = 0;
    m(2, j) *= 1e30;
    m(3, j) *= 1e-42;
  }
  const Host x = Host(DType::f32, 5, 140).set(m);
  Host y(DType::f32, 5, 130), dw = Host(DType::f32, 4, 140).fill(0);
  run({&y}, [&](Stream& s) { linear_forward(s, y, x, w.matrix); });
  const Mat<double> got = y.get(), expected = ref::fp8_forward(x.get(), w.values);
  for (int64_t n = 0; n < 130; ++n) {
    EXPECT_TRUE(std::isnan(got(0, n)) && std::isnan(got(4, n)));
    EXPECT_EQ(got(1, n), 0);
    EXPECT_NEAR(got(2, n), expected(2, n), 1e26);
    EXPECT_EQ(got(3, n), 0);  // below half of the smallest code at the smallest scale
  }
  const Host ones = Host(DType::f32, 5, 4).fill(1);
  run({&dw}, [&](Stream& s) { linear_backward_weight(s, gradient(dw), ones, x, Format::fp8_128); });
  for (int64_t k = 0; k < 140; ++k)  // an infinity spoils its tile of 128 channels
    EXPECT_EQ(std::isnan(dw.get()(0, k)), k == 3 || k >= 128) << k;
}

}  // namespace
}  // namespace sluice::test
