// Attention of a prompt. Keys and values of a group of heads are expanded page by page, keys transposed; then every
// head and block of tokens walks over the pages up to its own positions, with a softmax that is merged page by page.
// A row's sums depend on its own query and the pages alone.
#include <algorithm>
#include <cstring>

#include "ops/cpu/infer_block.h"
#include "ops/infer.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kBlock = 32;  // tokens of a task

struct Prompt {
  const Tensor& rows;
  const int32_t* pages;
  int64_t begin, tokens;
  const Matrix& kv_b;
  const LatentShape& shape;

  int64_t keys() const { return begin + tokens; }
  int64_t num_pages() const { return (keys() + kPageTokens - 1) / kPageTokens; }
  int64_t depth() const { return shape.nope + shape.rope; }
  /// Floats of one page of one head: keys (nope + rope, 64), then values (64, value).
  int64_t page_floats() const { return kPageTokens * (depth() + shape.value); }
};

/// out (cols, 64) = in (64, cols), rows `ld` apart.
void transpose(const float* in, int64_t ld, int64_t cols, float* out) {
  constexpr int64_t kTile = 8;
  for (int64_t c = 0; c < cols; c += kTile)
    for (int64_t k = 0; k < kPageTokens; k += kTile)
      for (int64_t i = c; i < std::min(c + kTile, cols); ++i)
        for (int64_t j = k; j < k + kTile; ++j) out[i * kPageTokens + j] = in[j * ld + i];
}

/// Floats of scratch for expand().
size_t expand_scratch(const Prompt& p) {
  const int64_t width = p.shape.nope + p.shape.value;
  return static_cast<size_t>(kPageTokens * (width + p.depth())) + infer_rows_scratch(p.kv_b, width);
}

/// Keys and values of one page under one head. Places behind the last key become zero.
void expand(float* out, float* scratch, const Prompt& p, int64_t head, int64_t page) {
  const LatentShape& a = p.shape;
  const int64_t width = a.nope + a.value, count = std::min(kPageTokens, p.keys() - page * kPageTokens);
  float *both = scratch, *keys = both + kPageTokens * width, *weights = keys + kPageTokens * p.depth();
  const float* row = static_cast<const float*>(p.rows.at(p.pages[page] * kPageTokens));
  infer_dot({both, width, row, a.row(), count, false}, infer_rows(p.kv_b, head * width, width, weights), width,
            a.latent);
  std::memset(keys, 0, static_cast<size_t>(kPageTokens * p.depth()) * sizeof(float));
  float* values = out + kPageTokens * p.depth();
  std::memset(values, 0, static_cast<size_t>(kPageTokens * a.value) * sizeof(float));
  for (int64_t k = 0; k < count; ++k) {
    const float* from = both + k * width;
    std::copy_n(from, a.nope, keys + k * p.depth());
    std::copy_n(row + k * a.row() + a.latent, a.rope, keys + k * p.depth() + a.nope);
    std::copy_n(from + a.nope, a.value, values + k * a.value);
  }
  transpose(keys, p.depth(), p.depth(), out);
}

/// Floats of scratch for attend(): scores and sums of one page, and the sums so far.
size_t attend_scratch(const Prompt& p) { return static_cast<size_t>(kBlock * (kPageTokens + 2 * p.shape.value)); }

/// The tokens [first, first + count) under one head, whose expanded pages lie one after another at `expanded`.
void attend(const Tensor& o, const Tensor& q, float* scratch, const Prompt& p, int64_t head, const float* expanded,
            int64_t first, int64_t count) {
  const LatentShape& a = p.shape;
  float *score = scratch, *part_u = score + kBlock * kPageTokens, *u = part_u + kBlock * a.value;
  SoftmaxPart total[kBlock];
  const float* query = static_cast<const float*>(q.at(first, head * p.depth()));
  const int64_t last = (p.begin + first + count - 1) / kPageTokens;
  for (int64_t page = 0; page <= last; ++page) {
    const int64_t start = page * kPageTokens;
    const int64_t hidden = std::clamp<int64_t>(start - p.begin - first, 0, count);  // rows before the page
    const int64_t rows = count - hidden;
    const float* keys = expanded + page * p.page_floats();
    infer_axpy({score, kPageTokens, query + hidden * q.ld, q.ld, rows, false}, {keys, kPageTokens, Format::f32},
               kPageTokens, p.depth());
    SoftmaxPart part[kBlock];
    for (int64_t i = 0; i < rows; ++i) {
      float* row = score + i * kPageTokens;
      const int64_t visible = std::min(kPageTokens, p.begin + first + hidden + i + 1 - start);
      part[i] = infer_softmax(row, visible, a.scale);
      std::fill(row + visible, row + kPageTokens, 0.0f);
    }
    float* sums = page == 0 ? u : part_u;
    infer_axpy({sums, a.value, score, kPageTokens, rows, false}, {keys + kPageTokens * p.depth(), a.value, Format::f32},
               a.value, kPageTokens);
    if (page == 0) std::copy_n(part, rows, total);
    for (int64_t i = 0; page > 0 && i < rows; ++i)
      infer_merge(u + (hidden + i) * a.value, total[hidden + i], part_u + i * a.value, part[i], a.value);
  }
  for (int64_t i = 0; i < count; ++i) {
    infer_finish(u + i * a.value, total[i], a.value);
    std::copy_n(u + i * a.value, a.value, static_cast<float*>(o.at(first + i, head * a.value)));
  }
}

}  // namespace

void infer_prompt_attention(Stream& s, Tensor o, const Tensor& q, const Tensor& rows, const Tensor& pages_P,
                            int64_t begin, const Matrix& kv_b, const LatentShape& a) {
  const Prompt p{rows, pages_P.ptr<int32_t>(), begin, q.rows(), kv_b, a};
  const int64_t pages = p.num_pages(), head_floats = pages * p.page_floats();
  const int64_t fit = kExpandedBytes / (head_floats * static_cast<int64_t>(sizeof(float)));
  const int64_t group = std::clamp<int64_t>(fit, 1, a.heads), blocks = (p.tokens + kBlock - 1) / kBlock;
  float* expanded = s.shared_scratch(static_cast<size_t>(group * head_floats));
  for (int64_t h = 0; h < a.heads; h += group) {
    const int64_t heads = std::min(group, a.heads - h);
    s.pool().run(heads * pages, [&](int64_t i, int thread) {
      expand(expanded + i * p.page_floats(), s.scratch(thread, expand_scratch(p)), p, h + i / pages, i % pages);
    });
    s.pool().run(heads * blocks, [&](int64_t i, int thread) {
      const int64_t block = blocks - 1 - i / heads, first = block * kBlock;  // the longest first
      attend(o, q, s.scratch(thread, attend_scratch(p)), p, h + i % heads, expanded + i % heads * head_floats, first,
             std::min(kBlock, p.tokens - first));
    });
  }
}

}  // namespace sluice::cpu
