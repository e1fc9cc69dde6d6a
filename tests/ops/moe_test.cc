#include "ops/moe.h"

#include "op_test.h"
#include "ops/ref/moe.h"

namespace sluice::test {
namespace {

struct MoeCase {
  const char* name;
  int64_t tokens, experts, k, dims;
  Rows layout;
};
const MoeCase kCases[] = {
    {"one", 1, 1, 1, 1, Rows::packed},
    {"random", 37, 6, 3, 33, Rows::strided},
    {"one expert gets all", 130, 5, 1, 17, Rows::packed},
    {"more experts than rows", 3, 64, 2, 40, Rows::strided},
    {"V3", 300, 256, 8, 20, Rows::packed},
    {"every expert", 9, 4, 4, 100, Rows::strided},
};

/// K different experts per token, in random order; "one expert gets all" leaves the others without rows.
Mat<int64_t> choices(Rng& rng, const MoeCase& c) {
  Mat<int64_t> out(c.tokens, c.k);
  for (int64_t t = 0; t < c.tokens; ++t) {
    std::vector<double> keys(static_cast<size_t>(c.experts));
    for (double& v : keys) v = rng.uniform();
    const std::vector<int64_t> chosen = ref::top_k(keys, c.k);
    for (int64_t k = 0; k < c.k; ++k)
      out(t, k) = std::string(c.name) == "one expert gets all" ? 3 : chosen[static_cast<size_t>(k)];
  }
  return out;
}

/// The index tensors of a case, from the reference.
struct Indices {
  ref::Permutation p;
  Host row_of_TK, slot_of_R;
  Indices(const Mat<int64_t>& choice, int64_t experts)
      : p(ref::permute(choice, experts)),
        row_of_TK(DType::i32, choice.rows, choice.cols),
        slot_of_R(i32_vector(p.slot_of_row)) {
    row_of_TK.set(p.row_of);
  }
};

TEST_P(FixedOpTest, MoePermute) {
  for (const MoeCase& c : kCases) {
    const Mat<int64_t> choice = choices(rng_, c);
    const Host choice_TK = Host(DType::i32, c.tokens, c.k).set(choice.data);
    Host offsets(DType::i32, c.experts + 1), row_of(DType::i32, c.tokens, c.k), slot_of(DType::i32, c.tokens * c.k);
    run({&offsets, &row_of, &slot_of}, [&](Stream& s) { moe_permute(s, offsets, row_of, slot_of, choice_TK); });
    const ref::Permutation expected = ref::permute(choice, c.experts);
    EXPECT_EQ(offsets.integers(), expected.offsets) << c.name;
    EXPECT_EQ(row_of.integers(), expected.row_of) << c.name;
    EXPECT_EQ(slot_of.integers(), expected.slot_of_row) << c.name;
  }
}

TEST_P(FixedOpTest, MoeCountAdds) {
  Host counts = Host(DType::i64, 4).set(std::vector<int64_t>{5, 0, int64_t{1} << 40, 7});
  run({&counts}, [&](Stream& s) { moe_count(s, counts, i32_vector({0, 3, 3, 10, 11})); });
  EXPECT_EQ(counts.integers(), (std::vector<int64_t>{8, 0, (int64_t{1} << 40) + 7, 8}));
}

TEST_P(OpTest, MoeGatherForward) {
  for (const MoeCase& c : kCases) {
    const Indices i(choices(rng_, c), c.experts);
    const Host x = random(c.tokens, c.dims, c.layout);
    Host rows = output(c.tokens * c.k, c.dims, c.layout);
    run({&rows}, [&](Stream& s) { moe_gather_forward(s, rows, x, i.slot_of_R, c.k); });
    EXPECT_EQ(rows.get().data, ref::gather(x.get(), i.p.slot_of_row, c.k).data) << c.name;
  }
}

TEST_P(OpTest, MoeGatherBackward) {
  for (const MoeCase& c : kCases)
    for (Out out : {Out::set, Out::add}) {
      const Indices i(choices(rng_, c), c.experts);
      const Host dx_rows = random(c.tokens * c.k, c.dims, c.layout);
      Host dx = out == Out::add ? random(c.tokens, c.dims, c.layout) : output(c.tokens, c.dims, c.layout);
      const Mat<double> before = out == Out::add ? dx.get() : Mat<double>(c.tokens, c.dims), upstream = dx_rows.get();
      run({&dx}, [&](Stream& s) { moe_gather_backward(s, dx, dx_rows, i.row_of_TK, out); });
      const auto loss = [&](const auto& z) {
        return dot(ref::gather(z, i.p.slot_of_row, c.k), upstream) + dot(z, before);
      };
      EXPECT_LT(gradient_error(dx.get(), loss, Mat<double>(c.tokens, c.dims)), tol()) << c.name;
    }
}

TEST_P(OpTest, MoeCombineForward) {
  for (const MoeCase& c : kCases)
    for (Out out : {Out::set, Out::add}) {
      const Indices i(choices(rng_, c), c.experts);
      const Host rows = random(c.tokens * c.k, c.dims, c.layout), weight = random_as(DType::f32, c.tokens, c.k);
      Host y = out == Out::add ? random(c.tokens, c.dims, c.layout) : output(c.tokens, c.dims, c.layout);
      const Mat<double> before = out == Out::add ? y.get() : Mat<double>(c.tokens, c.dims);
      run({&y}, [&](Stream& s) { moe_combine_forward(s, y, rows, weight, i.row_of_TK, out); });
      EXPECT_LT(diff(y.get(), plus(before, ref::combine(rows.get(), weight.get(), i.p.row_of))), tol()) << c.name;
    }
}

TEST_P(OpTest, MoeCombineBackward) {
  for (const MoeCase& c : kCases) {
    const Indices i(choices(rng_, c), c.experts);
    const Host rows = random(c.tokens * c.k, c.dims, c.layout), weight = random_as(DType::f32, c.tokens, c.k);
    const Host dy = random(c.tokens, c.dims, c.layout);
    Host drows = output(c.tokens * c.k, c.dims, c.layout), dweight(DType::f32, c.tokens, c.k);
    run({&drows, &dweight}, [&](Stream& s) { moe_combine_backward(s, drows, dweight, dy, rows, weight, i.slot_of_R); });
    const Mat<double> y = rows.get(), w = weight.get(), upstream = dy.get();
    const auto loss_rows = [&]<class C>(const Mat<C>& z) {
      return dot(ref::combine(z, lift<C>(w), i.p.row_of), upstream);
    };
    const auto loss_weight = [&]<class C>(const Mat<C>& z) {
      return dot(ref::combine(lift<C>(y), z, i.p.row_of), upstream);
    };
    EXPECT_LT(gradient_error(drows.get(), loss_rows, y), tol()) << c.name;
    EXPECT_LT(gradient_error(dweight.get(), loss_weight, w), kTolF32) << c.name;
  }
}

TEST_P(FixedOpTest, MoeBiasUpdate) {
  const int64_t large = int64_t{1} << 40;
  const std::vector<int64_t> cases[] = {
      {3, 3, 3, 3}, {0, 12, 4, 0}, {3, 3, 4}, {4, 4, 3}, {large, large + 1, large - 1}, {0, 0, 0}, {7},
  };
  for (const auto& counts : cases)
    for (float speed : {0.001f, 0.0f}) {
      const int64_t E = static_cast<int64_t>(counts.size());
      Host bias = random_vector(DType::f32, E), expected(DType::f32, E);
      Mat<double> b = bias.get();
      ref::bias_update(b, counts, static_cast<double>(speed));
      run({&bias}, [&](Stream& s) { moe_bias_update(s, bias, Host(DType::i64, E).set(counts), speed); });
      EXPECT_EQ(bias.get().data, expected.set(b).get().data) << "counts " << counts[0] << ", ... speed " << speed;
    }
}

}  // namespace
}  // namespace sluice::test
