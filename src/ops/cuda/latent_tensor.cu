// Attention over a latent cache of bf16 on tensor cores. A block takes one row, 16 heads and a split of the positions,
// page by page: the next page is on its way while this one is used. Queries and probabilities are rounded to bf16.
#include "ops/cuda/latent.cuh"
#include "ops/cuda/mma.cuh"

namespace sluice::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kHeads = 16, kKeys = static_cast<int>(kPageTokens), kPad = 8;
static_assert(kWarps * 8 == kKeys && kTensorSplit % kKeys == 0);

/// Columns of a page and of queries in shared memory: latent, rope, both filled up with zeros.
template <int kC, int kR>
struct Layout {
  static constexpr int kWidth = kC + kR, kPitch = kWidth + kPad, kPage = kKeys * kPitch;
  static constexpr int kBytes = (kHeads * kPitch + 2 * kPage) * 2;
  /// Where column `c` lies in a row of the cache; -1: nowhere.
  __device__ static int source(int c, const LatentShape& a) {
    if (c < kC) return c < a.latent ? c : -1;
    return c - kC < a.rope ? static_cast<int>(a.latent) + c - kC : -1;
  }
};

template <int kC, int kR>
__device__ void load_query(uint16_t* tile, const float* qa, int h0, const LatentShape& a) {
  using L = Layout<kC, kR>;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * L::kWidth; i += kThreads) {
    const int h = i / L::kWidth, c = i % L::kWidth, from = L::source(c, a);
    const bool is_there = h0 + h < a.heads && from >= 0;
    store(reinterpret_cast<half_t*>(tile) + h * L::kPitch + c, is_there ? qa[(h0 + h) * a.row() + from] : 0.0f);
  }
}

/// Begins to fill a page with the `count` rows from `rows` on; the others are zero, because what lies there may be NaN.
template <int kC, int kR>
__device__ void begin_page(uint16_t* page, const half_t* rows, int count, const LatentShape& a, bool is_vector) {
  using L = Layout<kC, kR>;
  constexpr int kPieces = L::kWidth / 8;
  for (int at = static_cast<int>(threadIdx.x); at < kKeys * kPieces; at += kThreads) {
    const int r = at / kPieces, c = at % kPieces * 8;
    uint16_t* to = page + r * L::kPitch + c;
    if (is_vector) {
      const int from = L::source(c, a);
      const bool is_there = r < count && from >= 0;
      const half_t* source = rows + (is_there ? r * a.row() + from : 0);
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
          "l"(source), "r"(is_there ? 16 : 0));
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int from = L::source(c + i, a);
        const bool is_there = r < count && from >= 0;
        to[i] = is_there ? reinterpret_cast<const uint16_t*>(rows)[r * a.row() + from] : uint16_t{0};
      }
    }
  }
  asm volatile("cp.async.commit_group;");
}

/// Right sides of two mma: 8 rows of `tile` from `row` on, 32 columns from `k` on.
__device__ void load_keys(uint32_t (&m)[4], const uint16_t* tile, int pitch, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint16_t* at = tile + (row + lane % 8) * pitch + k + lane / 8 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(at))));
}

using Scores = float[kHeads][kKeys + 4];

/// This warp's 8 keys; -inf for keys from `count` on.
template <int kC, int kR>
__device__ void score_keys(Scores& score, const uint16_t* query, const uint16_t* page, int count, float scale) {
  using L = Layout<kC, kR>;
  const int row = static_cast<int>(threadIdx.x) / 32 * 8;
  float sum[4] = {};
#pragma unroll 6
  for (int k = 0; k < L::kWidth; k += 32) {
    uint32_t a0[4], a1[4], b[4];
    load_along(a0, query, L::kPitch, 0, k);
    load_along(a1, query, L::kPitch, 0, k + 16);
    load_keys(b, page, L::kPitch, row, k);
    multiply_bf16(sum, a0, b[0], b[1]);
    multiply_bf16(sum, a1, b[2], b[3]);
  }
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int key = row + mma_col(c);
    score[mma_row(c)][key] = key < count ? sum[c] * scale : -INFINITY;
  }
}

/// Largest score and sum of exponentials of rows g and g + 8, the same in all warps.
struct Softmax {
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
};

__device__ float over_row(float v, bool is_sum) {
#pragma unroll
  for (int o = 1; o < 4; o *= 2) {
    const float other = __shfl_xor_sync(~0u, v, o);
    v = is_sum ? v + other : fmaxf(v, other);
  }
  return v;
}

/// p = exponentials of a page's scores as left sides; what was summed before counts `keep` times from now on.
__device__ void exponentials(uint32_t (&p)[kKeys / 16][4], float (&keep)[2], Softmax& softmax, const Scores& score) {
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
  float v[2][kKeys / 8][2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = softmax.most[r];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
      const float2 pair = *reinterpret_cast<const float2*>(&score[g + 8 * r][8 * n + 2 * t]);
      v[r][n][0] = pair.x, v[r][n][1] = pair.y;
      largest = fmaxf(largest, fmaxf(pair.x, pair.y));
    }
    largest = over_row(largest, false);
    keep[r] = softmax.most[r] == -INFINITY ? 0.0f : expf(softmax.most[r] - largest);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) sum += v[r][n][i] = expf(v[r][n][i] - largest);
    softmax.total[r] = softmax.total[r] * keep[r] + over_row(sum, true);
    softmax.most[r] = largest;
  }
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&pair)[2] = v[i % 2][2 * k + i / 2];
      p[k][i] = pack_bf16(pair[0], pair[1]);
    }
}

/// This warp's columns of a split, and once its softmax.
template <int kCols>
__device__ __forceinline__ void store_split(const Partial& out, const float (&sum)[kCols / 8][4],
                                            const Softmax& softmax, int64_t t, int h0, int col, const LatentShape& a) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const int h = h0 + mma_row(c);
    if (h >= a.heads) continue;
    const int64_t at = (t * a.heads + h) * out.splits + blockIdx.z;
#pragma unroll
    for (int n = 0; n < kCols / 8; ++n) {
      const int column = col + 8 * n + mma_col(c);
      if (column < a.latent) out.u[at * a.latent + column] = sum[n][c];
    }
    if (threadIdx.x < 32 && threadIdx.x % 4 == 0 && c % 2 == 0)
      out.sums[at] = make_float2(softmax.most[c / 2], softmax.total[c / 2]);
  }
}

template <int kC, int kR>
__global__ __launch_bounds__(kThreads) void attend(Partial out, const float* qa, Rows<const half_t> cache,
                                                   Places places, LatentShape a, bool is_vector) {
  using L = Layout<kC, kR>;
  constexpr int kCols = kC / kWarps;  // of the output, for a warp
  extern __shared__ __align__(16) uint16_t shared[];
  __shared__ __align__(16) Scores score;
  uint16_t *query = shared, *pages = shared + kHeads * L::kPitch;
  const int64_t t = blockIdx.x, begin = blockIdx.z * kTensorSplit;
  const int h0 = static_cast<int>(blockIdx.y) * kHeads, col = static_cast<int>(threadIdx.x) / 32 * kCols;
  const int count = static_cast<int>(min(kTensorSplit, static_cast<int64_t>(places.position_T[t]) + 1 - begin));
  if (count <= 0) return;
  const int32_t* page_of = places.pages_SP[places.sequence_T[t]] + begin / kKeys;
  const auto begin_one = [&](int page) {
    begin_page<kC, kR>(pages + page % 2 * L::kPage, cache[static_cast<int64_t>(page_of[page]) * kKeys],
                       min(kKeys, count - page * kKeys), a, is_vector);
  };
  const int num_pages = (count + kKeys - 1) / kKeys;
  begin_one(0);
  load_query<kC, kR>(query, qa + t * a.heads * a.row(), h0, a);
  float sum[kCols / 8][4] = {};
  Softmax softmax;
  for (int page = 0; page < num_pages; ++page) {
    const uint16_t* keys = pages + page % 2 * L::kPage;
    if (page + 1 < num_pages)
      begin_one(page + 1);
    else
      asm volatile("cp.async.commit_group;");  // an empty one, so that the count stays right
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    score_keys<kC, kR>(score, query, keys, min(kKeys, count - page * kKeys), a.scale);
    __syncthreads();
    uint32_t p[kKeys / 16][4];
    float keep[2];
    exponentials(p, keep, softmax, score);
#pragma unroll
    for (int n = 0; n < kCols / 8; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[n][c] *= keep[c / 2];
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
#pragma unroll
      for (int n = 0; n < kCols / 16; ++n) {
        uint32_t b[4];
        load_across(b, keys, L::kPitch, col + 16 * n, 16 * k);
        multiply_bf16(sum[2 * n], p[k], b[0], b[2]);
        multiply_bf16(sum[2 * n + 1], p[k], b[1], b[3]);
      }
    __syncthreads();
  }
  store_split<kCols>(out, sum, softmax, t, h0, col, a);
}

template <int kC, int kR>
void launch(cudaStream_t s, const Partial& out, const LatentRows& x, const LatentShape& a) {
  const bool is_vector = a.latent % 8 == 0 && a.rope % 8 == 0 && reinterpret_cast<uintptr_t>(x.cache.data) % 16 == 0;
  check_cuda(cudaFuncSetAttribute(attend<kC, kR>, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<kC, kR>::kBytes),
             "attention's shared memory");
  const dim3 grid(static_cast<unsigned>(x.n), blocks(a.heads, kHeads), static_cast<unsigned>(out.splits));
  attend<kC, kR>
      <<<grid, kThreads, Layout<kC, kR>::kBytes, s>>>(out, x.qa, rows<const half_t>(x.cache), x.places, a, is_vector);
}

}  // namespace

bool is_tensor_latent(const LatentShape& a) { return a.latent <= 512 && a.rope <= 64; }

void tensor_latent_splits(cudaStream_t s, const Partial& out, const LatentRows& x, const LatentShape& a) {
  a.latent <= 128 ? launch<128, 64>(s, out, x, a) : launch<512, 64>(s, out, x, a);
  check_launch("infer_attention");
}

}  // namespace sluice::cuda
