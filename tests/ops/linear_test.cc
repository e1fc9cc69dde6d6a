#include "ops/linear.h"

#include "op_test.h"
#include "ops/ref/linear.h"

namespace sluice::test {
namespace {

struct Shape {
  int64_t tokens, inputs, outputs;
  Rows layout;
};
const Shape kShapes[] = {{1, 1, 1, Rows::packed},        {1, 64, 48, Rows::packed},     {5, 33, 17, Rows::strided},
                         {64, 96, 80, Rows::strided},    {129, 127, 31, Rows::packed},  {3, 1, 40, Rows::strided},
                         {130, 129, 131, Rows::strided}, {300, 5, 1100, Rows::strided}, {270, 530, 9, Rows::packed}};

struct Mix {
  DType x, y;
  Format w;
};
/// Every mix whose result has the case's dtype.
std::vector<Mix> mixes(DType y) {
  std::vector<Mix> out;
  for (DType x : {DType::f32, DType::bf16})
    for (Format w : {Format::f32, Format::bf16}) out.push_back({x, y, w});
  return out;
}
DType dtype_of(Format format) { return format == Format::f32 ? DType::f32 : DType::bf16; }

Mat<double> start(const Host& y, Out out) { return out == Out::add ? y.get() : Mat<double>(y.rows(), y.cols()); }

TEST_P(OpTest, LinearForward) {
  for (auto [T, K, N, layout] : kShapes)
    for (const Mix& mix : mixes(dtype()))
      for (Out out : {Out::set, Out::add}) {
        const Host x = random_as(mix.x, T, K, layout), w = random_as(dtype_of(mix.w), N, K);
        Host y = out == Out::add ? random(T, N, layout) : output(T, N, layout);
        const Mat<double> before = start(y, out);
        run({&y}, [&](Stream& s) { linear_forward(s, y, x, as_matrix(w), out); });
        EXPECT_LT(diff(y.get(), plus(before, ref::linear(x.get(), w.get()))), product_tol(dtype()))
            << T << "x" << K << "x" << N << " x " << dtype_name(mix.x) << " w " << dtype_name(dtype_of(mix.w))
            << (out == Out::add ? " add" : "");
      }
}

TEST_P(OpTest, LinearBackwardInput) {
  for (auto [T, K, N, layout] : kShapes)
    for (const Mix& mix : mixes(dtype()))
      for (Out out : {Out::set, Out::add}) {
        const Host dy = random_as(mix.x, T, N, layout), w = random_as(dtype_of(mix.w), N, K), x = random(T, K);
        Host dx = out == Out::add ? random(T, K, layout) : output(T, K, layout);
        const Mat<double> before = start(dx, out);
        run({&dx}, [&](Stream& s) { linear_backward_input(s, dx, dy, as_matrix(w), out); });
        const auto loss = [&]<class C>(const Mat<C>& z) {
          return dot(ref::linear(z, lift<C>(w.get())), dy.get()) + dot(z, before);
        };
        EXPECT_LT(gradient_error(dx.get(), loss, x.get()), product_tol(dtype()))
            << T << "x" << K << "x" << N << " dy " << dtype_name(mix.x) << " w " << dtype_name(dtype_of(mix.w))
            << (out == Out::add ? " add" : "");
      }
}

TEST_P(OpTest, LinearBackwardWeight) {
  for (auto [T, K, N, layout] : kShapes)
    for (auto [x_dtype, out] : {std::pair{DType::f32, Out::add}, {DType::bf16, Out::add}, {DType::bf16, Out::set}}) {
      const Host dy = random(T, N, layout), x = random_as(x_dtype, T, K, layout), w = random(N, K);
      Host dw = random_as(DType::f32, N, K);
      const Mat<double> before = out == Out::add ? dw.get() : Mat<double>(N, K);
      run({&dw},
          [&, how = out](Stream& s) { linear_backward_weight(s, as_matrix(dw), dy, x, as_matrix(w).format, how); });
      const auto loss = [&]<class C>(const Mat<C>& z) {
        return dot(ref::linear(lift<C>(x.get()), z), dy.get()) + dot(z, before);
      };
      EXPECT_LT(gradient_error(dw.get(), loss, w.get()), product_tol(DType::f32)) << T << "x" << K << "x" << N;
    }
}

/// Experts with matrices of their own and rows that belong to them.
struct Group {
  std::vector<Host> w;
  std::vector<Matrix> bank;
  std::vector<int64_t> offsets{0};

  Group(std::vector<Host> matrices, const std::vector<int64_t>& rows) : w(std::move(matrices)) {
    for (const Host& h : w) bank.push_back(as_matrix(h));
    for (int64_t n : rows) offsets.push_back(offsets.back() + n);
  }
  Group(const Group&) = delete;
  Host offsets_tensor() const { return i32_vector(offsets); }
  template <class C>
  std::vector<Mat<C>> lifted() const {
    std::vector<Mat<C>> out;
    for (const Host& h : w) out.push_back(lift<C>(h.get()));
    return out;
  }
};

const std::vector<int64_t> kCounts[] = {
    {3, 0, 5, 1}, {0, 0, 9, 0}, {0, 0, 0, 0}, {130, 1, 127, 0}, {20}, {2, 600, 0, 300}, {1, 1, 1, 1, 1, 1, 1, 0, 1},
};

std::vector<Host> experts(Rng& rng, DType dtype, size_t n, int64_t N, int64_t K) {
  std::vector<Host> w;
  for (size_t e = 0; e < n; ++e) w.push_back(random_host(rng, dtype, N, K));
  return w;
}

/// Rows behind the last expert keep their values.
void expect_rest_untouched(const Host& after, const Host& before, int64_t used) {
  const Mat<double> a = after.get(), b = before.get();
  for (int64_t i = used * a.cols; i < a.size(); ++i)
    ASSERT_TRUE(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) << "row " << i / a.cols;
}

Mat<double> top_rows(const Mat<double>& m, int64_t rows) {
  Mat<double> out(rows, m.cols);
  std::copy(m.data.begin(), m.data.begin() + out.size(), out.data.begin());
  return out;
}

TEST_P(OpTest, GroupedLinearForward) {
  for (const auto& counts : kCounts)
    for (Out out : {Out::set, Out::add})
      for (Rows layout : {Rows::packed, Rows::strided}) {
        const int64_t K = 35, N = 22;
        const Group g(experts(rng_, dtype(), counts.size(), N, K), counts);
        const int64_t used = g.offsets.back(), R = used + 3;
        const Host x = random(R, K, layout), offsets = g.offsets_tensor();
        Host y = out == Out::add ? random(R, N, layout) : output(R, N, layout);
        const Host before = y;
        run({&y}, [&](Stream& s) { grouped_linear_forward(s, y, x, offsets, g.bank, out); });
        const Mat<double> product = ref::grouped_linear(top_rows(x.get(), used), g.offsets, g.lifted<double>());
        EXPECT_LT(diff(top_rows(y.get(), used), plus(top_rows(start(before, out), used), product)), tol());
        expect_rest_untouched(y, before, used);
      }
}

TEST_P(OpTest, GroupedLinearBackwardInput) {
  for (const auto& counts : kCounts)
    for (Out out : {Out::set, Out::add})
      for (Rows layout : {Rows::packed, Rows::strided}) {
        const int64_t K = 35, N = 22;
        const Group g(experts(rng_, dtype(), counts.size(), N, K), counts);
        const int64_t used = g.offsets.back(), R = used + 3;
        const Host dy = random(R, N, layout), offsets = g.offsets_tensor();
        Host dx = out == Out::add ? random(R, K, layout) : output(R, K, layout);
        const Host before = dx;
        run({&dx}, [&](Stream& s) { grouped_linear_backward_input(s, dx, dy, offsets, g.bank, out); });
        const Mat<double> initial = top_rows(start(before, out), used), upstream = top_rows(dy.get(), used);
        const auto loss = [&]<class C>(const Mat<C>& z) {
          return dot(ref::grouped_linear(z, g.offsets, g.lifted<C>()), upstream) + dot(z, initial);
        };
        EXPECT_LT(gradient_error(top_rows(dx.get(), used), loss, Mat<double>(used, K)), tol());
        expect_rest_untouched(dx, before, used);
      }
}

TEST_P(OpTest, GroupedLinearBackwardWeight) {
  for (const auto& counts : kCounts)
    for (auto [layout, out] :
         {std::pair{Rows::packed, Out::add}, {Rows::strided, Out::add}, {Rows::packed, Out::set}}) {
      const int64_t K = 19, N = counts.size() == 1 ? 530 : 14;
      const Group g(experts(rng_, dtype(), counts.size(), N, K), counts);
      const int64_t R = g.offsets.back() + 3;
      const Host x = random(R, K, layout), dy = random(R, N, layout), offsets = g.offsets_tensor();
      Group dw(experts(rng_, DType::f32, counts.size(), N, K), counts);
      std::vector<Host> before = dw.w;
      std::vector<Host*> outputs;
      for (Host& h : dw.w) outputs.push_back(&h);
      run(outputs, [&, how = out](Stream& s) {
        grouped_linear_backward_weight(s, dw.bank, dy, x, offsets, as_matrix(g.w[0]).format, how);
      });
      if (out == Out::set)
        for (Host& h : before) h.fill(0);
      const Mat<double> rows = top_rows(x.get(), g.offsets.back()), upstream = top_rows(dy.get(), g.offsets.back());
      for (size_t e = 0; e < counts.size(); ++e) {
        if (counts[e] == 0) {
          EXPECT_TRUE(dw.w[e].bytes() == before[e].bytes()) << "expert " << e << " has no rows";
          continue;
        }
        const auto loss = [&]<class C>(const Mat<C>& z) {
          auto w = g.lifted<C>();
          w[e] = z;
          return dot(ref::grouped_linear(lift<C>(rows), g.offsets, w), upstream) + dot(z, before[e].get());
        };
        EXPECT_LT(gradient_error(dw.w[e].get(), loss, g.w[e].get()), product_tol(DType::f32)) << "expert " << e;
      }
    }
}

}  // namespace
}  // namespace sluice::test
