#include "ops/attention.h"

#include "op_test.h"
#include "ops/ref/attention.h"

namespace sluice::test {
namespace {

AttentionShape shape(int64_t batch, int64_t tokens, int64_t heads, int64_t nope, int64_t rope, int64_t value) {
  return {batch, tokens, heads, nope, rope, value, 1 / std::sqrt(static_cast<float>(nope + rope))};
}
const AttentionShape kShapes[] = {
    shape(1, 1, 1, 16, 8, 12),      shape(3, 1, 2, 16, 8, 12),     shape(2, 2, 3, 16, 8, 12),
    shape(2, 33, 3, 16, 8, 12),     shape(2, 128, 2, 16, 8, 12),   shape(1, 129, 3, 16, 8, 12),
    shape(2, 300, 2, 16, 8, 12),    shape(2, 20, 2, 128, 64, 128), shape(1, 70, 2, 5, 2, 3),
    shape(1, 260, 1, 128, 64, 128),
};

/// Packed documents: first_T with documents that begin at 0, 1, 40, 128 and 200 in every other sequence.
std::vector<int64_t> documents(const AttentionShape& a) {
  std::vector<int64_t> first;
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t t = 0, begin = 0; t < a.tokens; ++t) {
      if (b % 2 == 0 && (t == 1 || t == 40 || t == 128 || t == 200)) begin = t;
      first.push_back(begin);
    }
  return first;
}

/// Inputs of one case on the host.
struct Inputs {
  Host q, kv, k_rope;
  std::vector<int64_t> first;
  Host first_T;

  AttentionInputs tensors() const { return {q, kv, k_rope, first.empty() ? Tensor() : first_T.tensor()}; }
};

std::string text(const AttentionShape& a, bool masked) {
  return fmt::format("batch {} tokens {} heads {} dims {}/{}/{}{}", a.batch, a.tokens, a.heads, a.nope, a.rope, a.value,
                     masked ? " packed documents" : "");
}

Inputs random_inputs(Rng& rng, DType dtype, const AttentionShape& a, bool masked, Rows layout) {
  const int64_t T = a.batch * a.tokens;
  std::vector<int64_t> first = masked ? documents(a) : std::vector<int64_t>();
  Host first_T = i32_vector(first);
  return {random_host(rng, dtype, T, a.heads * (a.nope + a.rope)),
          random_host(rng, dtype, T, a.heads * (a.nope + a.value)), random_host(rng, dtype, T, a.rope, layout),
          std::move(first), std::move(first_T)};
}

TEST_P(OpTest, AttentionForward) {
  for (const AttentionShape& a : kShapes)
    for (bool masked : {false, true}) {
      const Inputs in = random_inputs(rng_, dtype(), a, masked, masked ? Rows::packed : Rows::strided);
      Host o = output(a.batch * a.tokens, a.heads * a.value), lse(DType::f32, a.batch * a.tokens, a.heads);
      run({&o, &lse}, [&](Stream& s) { attention_forward(s, o, lse, in.tensors(), a); });
      const auto expected = ref::attention(in.q.get(), in.kv.get(), in.k_rope.get(), in.first, a);
      EXPECT_LT(diff(o.get(), expected.o), tol()) << text(a, masked);
      EXPECT_LT(diff(lse.get(), expected.lse), kTolF32) << text(a, masked);
    }
}

TEST_P(OpTest, AttentionBackward) {
  for (const AttentionShape& a : kShapes)
    for (bool masked : {false, true}) {
      const Rows layout = masked ? Rows::packed : Rows::strided;
      const int64_t T = a.batch * a.tokens;
      const Inputs in = random_inputs(rng_, dtype(), a, masked, layout);
      const Host d_o = random(T, a.heads * a.value);
      Host o = output(T, a.heads * a.value), lse(DType::f32, T, a.heads);
      attention_forward(stream(1), o, lse, in.tensors(), a);
      Host dq = output(T, in.q.cols()), dkv = output(T, in.kv.cols()), dk_rope = output(T, a.rope, layout);
      run({&dq, &dkv, &dk_rope}, [&](Stream& s) {
        attention_backward_input(s, {dq, dkv, dk_rope, Tensor()}, d_o, in.tensors(), o, lse, a);
      });
      const Mat<double> q = in.q.get(), kv = in.kv.get(), k_rope = in.k_rope.get(), upstream = d_o.get();
      const auto loss_q = [&]<class C>(const Mat<C>& z) {
        return dot(ref::attention(z, lift<C>(kv), lift<C>(k_rope), in.first, a).o, upstream);
      };
      const auto loss_kv = [&]<class C>(const Mat<C>& z) {
        return dot(ref::attention(lift<C>(q), z, lift<C>(k_rope), in.first, a).o, upstream);
      };
      const auto loss_k_rope = [&]<class C>(const Mat<C>& z) {
        return dot(ref::attention(lift<C>(q), lift<C>(kv), z, in.first, a).o, upstream);
      };
      // One token sees itself alone: its query has no gradient.
      if (a.tokens == 1) {
        EXPECT_LT(std::sqrt(dot(dq.get(), dq.get())), 20 * tol()) << text(a, masked);
        EXPECT_LT(std::sqrt(dot(dk_rope.get(), dk_rope.get())), 20 * tol()) << text(a, masked);
      } else {
        EXPECT_LT(gradient_error(dq.get(), loss_q, q), 2 * tol()) << text(a, masked);
        EXPECT_LT(gradient_error(dk_rope.get(), loss_k_rope, k_rope), 2 * tol()) << text(a, masked);
      }
      EXPECT_LT(gradient_error(dkv.get(), loss_kv, kv), 2 * tol()) << text(a, masked);
    }
}

TEST_P(OpTest, AttentionOfLargeScoresIsFinite) {
  const AttentionShape a = shape(1, 40, 2, 16, 8, 12);
  Inputs in = random_inputs(rng_, dtype(), a, false, Rows::packed);
  in.q = random(40, in.q.cols(), Rows::packed, 300);
  const Host d_o = random(40, 24);
  Host o = output(40, 24), lse(DType::f32, 40, 2), dq = output(40, 48), dkv = output(40, 56), dk_rope = output(40, 8);
  run({&o, &lse}, [&](Stream& s) { attention_forward(s, o, lse, in.tensors(), a); });
  const auto expected = ref::attention(in.q.get(), in.kv.get(), in.k_rope.get(), in.first, a);
  EXPECT_LT(diff(o.get(), expected.o), tol() + 1e-3);  // scores of 1000 have an absolute error of 1e-4
  EXPECT_LT(diff(lse.get(), expected.lse), kTolF32);
  run({&dq, &dkv, &dk_rope}, [&](Stream& s) {
    attention_backward_input(s, {dq, dkv, dk_rope, Tensor()}, d_o, in.tensors(), o, lse, a);
  });
  for (const Host* h : {&dq, &dkv, &dk_rope}) EXPECT_TRUE(std::isfinite(dot(h->get(), h->get())));
}

TEST_P(OpTest, AttentionDoesNotHideNaN) {
  const AttentionShape a = shape(1, 140, 1, 16, 8, 12);
  for (int64_t at : {0, 5, 127, 128, 139}) {
    Inputs in = random_inputs(rng_, dtype(), a, false, Rows::packed);
    Inputs bad_key = in;
    Mat<double> q = in.q.get(), k_rope = in.k_rope.get();
    q(at, 3) = k_rope(at, 3) = std::nan("");
    in.q.set(q), bad_key.k_rope.set(k_rope);
    Host o = output(140, 12), lse(DType::f32, 140, 1);
    run({&o, &lse}, [&](Stream& s) { attention_forward(s, o, lse, in.tensors(), a); });
    for (int64_t t = 0; t < 140; ++t) ASSERT_EQ(std::isnan(o.get()(t, 0)), t == at) << "query " << at << " row " << t;
    run({&o, &lse}, [&](Stream& s) { attention_forward(s, o, lse, bad_key.tensors(), a); });
    for (int64_t t = 0; t < 140; ++t) ASSERT_EQ(std::isnan(o.get()(t, 0)), t >= at) << "key " << at << " row " << t;
  }
}

}  // namespace
}  // namespace sluice::test
