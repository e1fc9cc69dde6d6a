#include "ops/embedding.h"

#include "op_test.h"
#include "ops/ref/embedding.h"

namespace sluice::test {
namespace {

struct Shape {
  int64_t tokens, vocabulary, dims;
  Rows layout;
};
const Shape kShapes[] = {
    {1, 1, 1, Rows::packed}, {7, 5, 13, Rows::strided}, {200, 11, 70, Rows::packed}, {40, 300, 33, Rows::strided}};

std::vector<int64_t> ids(Rng& rng, int64_t tokens, int64_t vocabulary) {
  std::vector<int64_t> out{vocabulary - 1};
  for (int64_t t = 1; t < tokens; ++t)
    out.push_back(static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocabulary))));
  return out;
}

TEST_P(OpTest, EmbeddingForward) {
  for (auto [T, V, D, layout] : kShapes)
    for (DType table_dtype : {DType::f32, DType::bf16}) {
      const Host table = random_as(table_dtype, V, D);
      const std::vector<int64_t> token = ids(rng_, T, V);
      Host x = output(T, D, layout), expected = output(T, D);
      run({&x}, [&](Stream& s) { embedding_forward(s, x, i32_vector(token), as_matrix(table)); });
      expected.set(ref::embedding(token, table.get()));
      EXPECT_EQ(x.get().data, expected.get().data) << T << "x" << D;
    }
}

TEST_P(OpTest, EmbeddingBackwardWeight) {
  for (auto [T, V, D, layout] : kShapes) {
    const Host dx = random(T, D, layout);
    const std::vector<int64_t> token = ids(rng_, T, V);
    Host dtable = random_as(DType::f32, V, D);
    const Mat<double> before = dtable.get();
    run({&dtable}, [&](Stream& s) { embedding_backward_weight(s, as_matrix(dtable), dx, i32_vector(token)); });
    const auto loss = [&](const auto& z) { return dot(ref::embedding(token, z), dx.get()) + dot(z, before); };
    EXPECT_LT(gradient_error(dtable.get(), loss, Mat<double>(V, D)), kTolF32) << T << "x" << D;
  }
}

}  // namespace
}  // namespace sluice::test
