#include <algorithm>
#include <cstring>

#include "ops/cpu/infer_block.h"
#include "ops/infer.h"

// A task is one token under up to 16 heads, which share the cached rows. Keys come in splits at fixed positions. Where
// tokens and heads are too few for the threads, splits are tasks of their own and are merged afterwards in the same
// order with the same arithmetic.
namespace sluice::cpu {
namespace {

constexpr int64_t kHeads = 16, kSplit = 8 * kPageTokens;

/// Where a token's query meets the cache.
struct Query {
  const Tensor& rows;
  const int32_t* pages;  // of the token's sequence
  const LatentShape& shape;
  const float* qa;  // heads rows of latent + rope
  int64_t heads;
  int64_t keys;  // visible positions
};

/// u (heads, latent) = unnormalised sums over the keys of one split; scores: heads * kSplit floats of scratch.
void attend_split(float* u, SoftmaxPart* part, float* scores, const Query& q, int64_t split) {
  const LatentShape& a = q.shape;
  const int64_t first = split * kSplit, count = std::min(kSplit, q.keys - first);
  const int32_t* pages = q.pages + first / kPageTokens;
  const auto page = [&](int64_t i) -> InferWeights {
    return {q.rows.at(pages[i / kPageTokens] * kPageTokens), a.row(), Format::f32};
  };
  for (int64_t i = 0; i < count; i += kPageTokens)
    infer_dot({scores + i, kSplit, q.qa, a.row(), q.heads, false}, page(i), std::min(kPageTokens, count - i), a.row());
  for (int64_t h = 0; h < q.heads; ++h) part[h] = infer_softmax(scores + h * kSplit, count, a.scale);
  for (int64_t i = 0; i < count; i += kPageTokens)
    infer_axpy({u, a.latent, scores + i, kSplit, q.heads, i > 0}, page(i), a.latent, std::min(kPageTokens, count - i));
}

void merge_heads(float* u, SoftmaxPart* total, const float* part_u, const SoftmaxPart* part, const Query& q) {
  for (int64_t h = 0; h < q.heads; ++h)
    infer_merge(u + h * q.shape.latent, total[h], part_u + h * q.shape.latent, part[h], q.shape.latent);
}

void finish_heads(float* u, const SoftmaxPart* total, const Query& q) {
  for (int64_t h = 0; h < q.heads; ++h) infer_finish(u + h * q.shape.latent, total[h], q.shape.latent);
}

/// All splits one after the other; scratch: kHeads * (kSplit + latent) floats.
void attend(float* u, float* scratch, const Query& q) {
  SoftmaxPart total[kHeads], part[kHeads];
  float* part_u = scratch + kHeads * kSplit;
  attend_split(u, total, scratch, q, 0);
  for (int64_t split = 1; split * kSplit < q.keys; ++split) {
    attend_split(part_u, part, scratch, q, split);
    merge_heads(u, total, part_u, part, q);
  }
  finish_heads(u, total, q);
}

/// One task's share of the rows of u and qa.
class Work {
 public:
  Work(const Tensor& u, const Tensor& qa, const Tensor& rows, const CachePlaces& places, const LatentShape& shape)
      : u_(u), qa_(qa), rows_(rows), places_(places), shape_(shape) {}

  int64_t groups() const { return (shape_.heads + kHeads - 1) / kHeads; }
  int64_t tasks() const { return u_.rows() * groups(); }
  Query query(int64_t task) const {
    const int64_t t = task / groups(), h = task % groups() * kHeads;
    return {rows_,
            static_cast<const int32_t*>(places_.pages_SP.at(places_.sequence_T.ptr<int32_t>()[t])),
            shape_,
            static_cast<const float*>(qa_.at(t, h * shape_.row())),
            std::min(kHeads, shape_.heads - h),
            int64_t{places_.position_T.ptr<int32_t>()[t]} + 1};
  }
  float* out(int64_t task) const {
    return static_cast<float*>(u_.at(task / groups(), task % groups() * kHeads * shape_.latent));
  }

 private:
  const Tensor &u_, &qa_, &rows_;
  const CachePlaces& places_;
  const LatentShape& shape_;
};

/// Splits as tasks of their own.
void attend_apart(Stream& s, const Work& work, int64_t splits, const LatentShape& a) {
  const int64_t width = kHeads * (a.latent + 2);
  float* parts = s.shared_scratch(static_cast<size_t>(work.tasks() * splits * width));
  const auto part_of = [&](int64_t task, int64_t split) { return parts + (task * splits + split) * width; };
  const auto sums_of = [&](float* part) { return reinterpret_cast<SoftmaxPart*>(part + kHeads * a.latent); };
  s.pool().run(work.tasks() * splits, [&](int64_t i, int thread) {  // groups of heads share the rows of a split
    const int64_t task = i % work.tasks(), split = i / work.tasks();
    const Query q = work.query(task);
    float* part = part_of(task, split);
    if (split * kSplit < q.keys)
      attend_split(part, sums_of(part), s.scratch(thread, static_cast<size_t>(kHeads * kSplit)), q, split);
  });
  s.pool().run(work.tasks(), [&](int64_t task, int) {
    const Query q = work.query(task);
    float *u = work.out(task), *first = part_of(task, 0);
    std::memcpy(u, first, static_cast<size_t>(q.heads * a.latent) * sizeof(float));
    for (int64_t split = 1; split * kSplit < q.keys; ++split) {
      float* part = part_of(task, split);
      merge_heads(u, sums_of(first), part, sums_of(part), q);
    }
    finish_heads(u, sums_of(first), q);
  });
}

/// Calls fn(head, thread) for every head; `work` multiply-adds each.
template <class Fn>
void for_each_head(Stream& s, const LatentShape& a, int64_t work, Fn&& fn) {
  parallel_for(s, a.heads, infer_grain(work), [&](int64_t h, int64_t end, int thread) {
    for (; h < end; ++h) fn(h, thread);
  });
}

}  // namespace

void infer_cache_rows(Stream&, Tensor rows, const Tensor& x_TA, const CachePlaces& places) {
  const int32_t *position = places.position_T.ptr<int32_t>(), *sequence = places.sequence_T.ptr<int32_t>();
  for (int64_t t = 0; t < x_TA.rows(); ++t) {
    const int32_t page = *static_cast<const int32_t*>(places.pages_SP.at(sequence[t], position[t] / kPageTokens));
    std::memcpy(rows.at(page * kPageTokens + position[t] % kPageTokens), x_TA.at(t),
                static_cast<size_t>(x_TA.cols()) * sizeof(float));
  }
}

void infer_absorb_query(Stream& s, Tensor qa, const Tensor& q, const Matrix& kv_b, const LatentShape& a) {
  const int64_t T = q.rows();
  for_each_head(s, a, T * a.nope * a.latent, [&](int64_t h, int thread) {
    const size_t scratch = infer_rows_scratch(kv_b, a.nope);
    const InferWeights w =
        infer_rows(kv_b, h * (a.nope + a.value), a.nope, scratch ? s.scratch(thread, scratch) : nullptr);
    const float* in = static_cast<const float*>(q.at(0, h * (a.nope + a.rope)));
    float* out = static_cast<float*>(qa.at(0, h * a.row()));
    infer_axpy({out, qa.ld, in, q.ld, T, false}, w, a.latent, a.nope);
    for (int64_t t = 0; t < T; ++t)
      std::memcpy(out + t * qa.ld + a.latent, in + t * q.ld + a.nope, static_cast<size_t>(a.rope) * sizeof(float));
  });
}

void infer_expand_value(Stream& s, Tensor o, const Tensor& u, const Matrix& kv_b, const LatentShape& a) {
  for_each_head(s, a, u.rows() * a.value * a.latent, [&](int64_t h, int thread) {
    const size_t scratch = infer_rows_scratch(kv_b, a.value);
    const InferWeights w =
        infer_rows(kv_b, h * (a.nope + a.value) + a.nope, a.value, scratch ? s.scratch(thread, scratch) : nullptr);
    infer_dot({static_cast<float*>(o.at(0, h * a.value)), o.ld, static_cast<const float*>(u.at(0, h * a.latent)), u.ld,
               u.rows(), false},
              w, a.value, a.latent);
  });
}

void infer_attention(Stream& s, Tensor u, const Tensor& qa, const Tensor& rows, const CachePlaces& places,
                     const LatentShape& a) {
  const Work work(u, qa, rows, places, a);
  int64_t longest = 0;
  for (int64_t t = 0; t < u.rows(); ++t) longest = std::max<int64_t>(longest, places.position_T.ptr<int32_t>()[t]);
  const int64_t splits = longest / kSplit + 1;
  if (splits > 1 && work.tasks() < 4 * s.threads()) return attend_apart(s, work, splits, a);
  const int64_t size = std::min(kHeads, a.heads) * (longest + 1) * (a.row() + a.latent);
  parallel_for(s, work.tasks(), infer_grain(size), [&](int64_t task, int64_t end, int thread) {
    for (; task < end; ++task)
      attend(work.out(task), s.scratch(thread, static_cast<size_t>(kHeads * (kSplit + a.latent))), work.query(task));
  });
}

}  // namespace sluice::cpu
