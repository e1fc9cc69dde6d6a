// Attention over a latent cache of bf16, 512 + 64 columns, on Hopper's own instructions. A block takes 64 heads of a
// row and a split of its positions, two pages at a time, which are keys and values at once. Each of two warpgroups has
// half of the columns of the values: the first scores the even pages, the second the odd ones, and they exchange their
// weights through the columns of the pages that only keys have. While one scores, the other sums.
#include "ops/cuda/attention_wgmma.cuh"
#include "ops/cuda/latent.cuh"
#include "ops/cuda/tensor_map.h"

namespace sluice::cuda {
namespace {

using hopper::Left;
using wgmma_attention::exp2_fast;
using wgmma_attention::kLog2E;
using wgmma_attention::Role;

constexpr int kLatent = 512, kRope = 64, kWidth = kLatent + kRope, kHeads = 64, kKeys = static_cast<int>(kPageTokens);
constexpr int kWarpgroup = 128, kMultiplying = 2 * kWarpgroup, kThreads = 3 * kWarpgroup;
constexpr int kLine = 128, kLineColumns = 64, kBox = 64 * kLine;  // 64 rows of 64 columns
constexpr int kHalfBoxes = kLatent / 2 / kLineColumns, kBoxes = kWidth / kLineColumns, kRopeBox = kBoxes - 1;
static_assert(kKeys == 64);

/// What is brought, and given free, at once of the page in a buffer: a warpgroup's half of the values, and with that
/// half which is needed last the columns that only keys have.
__host__ __device__ constexpr int last_half(int buffer) { return 1 - buffer; }

struct Shared {
  uint8_t q[kBoxes][kBox];
  uint8_t page[2][kBoxes][kBox];
  float most[2][kHeads], total[2][kHeads];
  uint64_t full[2][2], empty[2][2];  // [buffer][half]
};

struct Job {
  Partial out;
  float* u;
  const float* qa;
  Places places;
  LatentShape a;
  int rows, items, head_tiles;
};

/// 64 heads from h0 on, of row t, over `count` positions from `begin` on, the `split`th of so many.
struct Item {
  int64_t t;
  int h0, split, splits, begin, count;
  __device__ int pages() const { return (count + kKeys - 1) / kKeys; }
};

/// Rows have different numbers of splits: first splits come first, so that the work of all blocks is alike.
__device__ bool find_item(Item& x, const Job& job, int index) {
  const int per_split = job.rows * job.head_tiles, in_split = index % per_split;
  x.split = index / per_split;
  x.t = in_split / job.head_tiles;
  x.h0 = in_split % job.head_tiles * kHeads;
  const int position = job.places.position_T[x.t], length = static_cast<int>(job.out.rule.length_at(position));
  x.splits = position / length + 1;
  x.begin = x.split * length;
  x.count = min(length, position + 1 - x.begin);
  return x.count > 0;
}

/// The block's item at `index` or later, and the index after it; false: there is none.
__device__ __forceinline__ bool next_item(Item& x, const Job& job, int& index) {
  for (; index < job.items; index += static_cast<int>(gridDim.x))
    if (find_item(x, job, index)) {
      index += static_cast<int>(gridDim.x);
      return true;
    }
  return false;
}

// -- One thread brings the pages.

__device__ __forceinline__ void bring(Shared& s, const CUtensorMap& cache, int buffer, int half, int page,
                                      uint32_t parity) {
  uint64_t* full = &s.full[buffer][half];
  const bool is_last = last_half(buffer) == half;
  hopper::wait_for(&s.empty[buffer][half], parity ^ 1);
  hopper::arrive_expecting(full, (kHalfBoxes + is_last) * kBox);
  for (int box = half * kHalfBoxes; box < (half + 1) * kHalfBoxes; ++box)
    hopper::copy_box(s.page[buffer][box], cache, full, box * kLineColumns, 0, page);
  if (is_last) hopper::copy_box(s.page[buffer][kRopeBox], cache, full, kLatent, 0, page);
}

/// The pages of an item.
__device__ const int32_t* pages_of(const Job& job, const Item& item) {
  return job.places.pages_SP[job.places.sequence_T[item.t]] + item.begin / kKeys;
}

/// Two pages from page `i` of an item on begin their way to the L2 cache.
__device__ __forceinline__ void prefetch(const CUtensorMap& cache, const Job& job, const Item& item, int i) {
  const int32_t* page_of = pages_of(job, item);
  for (const int end = min(i + 2, item.pages()); i < end; ++i)
    for (int box = 0; box < kBoxes; ++box) hopper::prefetch_box(cache, box * kLineColumns, 0, page_of[i]);
}

__device__ __forceinline__ void feed(Shared& s, const Job& job, const CUtensorMap& cache) {
  uint32_t parity[2] = {};
  Item item, next;
  int index = static_cast<int>(blockIdx.x);
  bool has_item = next_item(item, job, index);
  while (has_item) {
    const int32_t* page_of = pages_of(job, item);
    const int pages = item.pages();
    bool has_next = false;
    for (int i = 0; i < pages; i += 2) {
      const bool has_second = i + 1 < pages;
      // In the order in which they are given free.
      bring(s, cache, 0, 0, page_of[i], parity[0]);
      if (has_second) bring(s, cache, 1, 1, page_of[i + 1], parity[1]);
      bring(s, cache, 0, 1, page_of[i], parity[0]);
      if (has_second) bring(s, cache, 1, 0, page_of[i + 1], parity[1]);
      parity[0] ^= 1;
      parity[1] ^= has_second;
      if (i + 2 < pages)
        prefetch(cache, job, item, i + 2);
      else if ((has_next = next_item(next, job, index)))
        prefetch(cache, job, next, 0);
    }
    item = next;
    has_item = has_next;
  }
}

// -- Two warpgroups multiply.

__device__ __forceinline__ uint32_t swizzled(int row, int piece) { return row * kLine + (piece ^ (row & 7)) * 16; }

/// Queries as bf16, heads beyond the last as zeros; by both warpgroups.
__device__ __forceinline__ void load_queries(Shared& s, const Job& job, const Item& item) {
  constexpr int kPieces = kWidth / 8;
  static_assert(kHeads * kPieces % (6 * kMultiplying) == 0);
#pragma unroll 6
  for (int n = 0; n < kHeads * kPieces / kMultiplying; ++n) {
    const int at = n * kMultiplying + static_cast<int>(threadIdx.x);
    const int h = at / kPieces, piece = at % kPieces;
    float v[8] = {};
    if (item.h0 + h < job.a.heads) load_n<8>(job.qa + (item.t * job.a.heads + item.h0 + h) * kWidth + piece * 8, v);
    store_n<8>(reinterpret_cast<half_t*>(s.q[piece / 8] + swizzled(h, piece % 8)), v);
  }
  hopper::publish_to_engines();
}

/// Rows of a page from `count` on become zeros, because what lies there may be NaN; by the warpgroup that scores it.
__device__ __forceinline__ void clear_rows(Shared& s, int buffer, int count, const Role& role) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  for (int at = thread; at < kBoxes * (kKeys - count) * (kLine / 16); at += kWarpgroup) {
    const int piece = at % (kLine / 16), row = count + at / (kLine / 16) / kBoxes, box = at / (kLine / 16) % kBoxes;
    *reinterpret_cast<uint4*>(s.page[buffer][box] + row * kLine + piece * 16) = make_uint4(0, 0, 0, 0);
  }
  hopper::publish_to_engines();
  hopper::synchronize_some(5 + role.group, kWarpgroup);
}

/// Of a thread's two rows the largest score, and the sum of the weights that its warpgroup has made itself.
struct Softmax {
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
};

/// A warpgroup's half of the sums of values, 128 columns each, which the compiler keeps in registers only as arrays.
struct Sums {
  float (&low)[64], (&high)[64];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < 64; ++n) low[n] = 0, high[n] = 0;
  }
  __device__ __forceinline__ void scale(const float (&by)[2]) {
#pragma unroll
    for (int n = 0; n < 64; ++n) low[n] *= by[n % 4 / 2], high[n] *= by[n % 4 / 2];
  }
  __device__ __forceinline__ void pin() { hopper::pin(low), hopper::pin(high); }
};

/// score = q page', half by half in the order in which they come.
__device__ __forceinline__ void score_page(float (&score)[32], Shared& s, int buffer, uint32_t parity, int count,
                                           const Role& role) {
  const int last = last_half(buffer), first = 1 - last;
  const uint32_t q = hopper::shared_address(s.q), page = hopper::shared_address(s.page[buffer]);
  const auto multiply_box = [&](int box, bool keep) {
#pragma unroll
    for (int k = 0; k < kLine; k += 32)
      hopper::multiply<false, false>(score, hopper::side(q + box * kBox + k), hopper::side(page + box * kBox + k),
                                     keep || k > 0);
  };
  hopper::wait_for(&s.full[buffer][first], parity);
  if (count < kKeys) {
    hopper::wait_for(&s.full[buffer][last], parity);
    clear_rows(s, buffer, count, role);
  }
  hopper::pin(score);
  hopper::begin_products();
#pragma unroll
  for (int box = 0; box < kHalfBoxes; ++box) multiply_box(first * kHalfBoxes + box, box > 0);
  hopper::wait_for(&s.full[buffer][last], parity);
#pragma unroll
  for (int box = 0; box < kHalfBoxes; ++box) multiply_box(last * kHalfBoxes + box, true);
  multiply_box(kRopeBox, true);
  hopper::commit_products();
  hopper::wait_for_products<0>();
  hopper::pin(score);
}

/// Scores of keys from `count` on become -inf; the largest of each row, the same in the four lanes that share it.
__device__ __forceinline__ void largest_scores(float (&largest)[2], float (&score)[32], int count, const Role& role) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    largest[r] = -INFINITY;
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& v = score[4 * n + 2 * r + c];
        if (8 * n + role.column() + c >= count) v = -INFINITY;
        largest[r] = fmaxf(largest[r], v);
      }
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 2));
  }
}

/// Scores become weights, which `total` counts, relative to the largest score `most`.
__device__ __forceinline__ void weigh(float (&score)[32], float (&total)[2], const float (&most)[2], float scale) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float base = most[r] * scale;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int c = 2 * r; c < 2 * r + 2; ++c) sum += score[4 * n + c] = exp2_fast(fmaf(score[4 * n + c], scale, -base));
    total[r] += sum;
  }
}

/// Weights as the left side of a product in shared memory, where the other warpgroup reads them.
__device__ __forceinline__ void share_weights(uint8_t* to, const Left (&weights)[4], const Role& role) {
  const int row = role.warp * 16 + role.lane / 8 % 2 * 8 + role.lane % 8;
#pragma unroll
  for (int k = 0; k < 4; ++k)
    hopper::store_matrices(hopper::shared_address(to) + swizzled(row, 2 * k + role.lane / 16), weights[k]);
  hopper::publish_to_engines();
}

/// This warpgroup's values of a page times its own weights, or those that the other one has shared.
__device__ __forceinline__ void add_own(Sums sums, const Left (&weights)[4], Shared& s, int buffer, const Role& role) {
  const uint32_t v = hopper::shared_address(s.page[buffer][role.group * kHalfBoxes]);
  sums.pin();
  hopper::begin_products();
  wgmma_attention::multiply_left(sums.low, weights, v, kBox, true);
  wgmma_attention::multiply_left(sums.high, weights, v + 2 * kBox, kBox, true);
  hopper::commit_products();
}
__device__ __forceinline__ void add_shared(Sums sums, Shared& s, int buffer, const Role& role) {
  const uint32_t v = hopper::shared_address(s.page[buffer][role.group * kHalfBoxes]);
  const uint32_t weights = hopper::shared_address(s.page[buffer][kRopeBox]);
  sums.pin();
  hopper::begin_products();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint64_t left = hopper::side(weights + k * 32);
    hopper::multiply<false, true>(sums.low, left, hopper::side(v + k * 16 * kLine, kBox), true);
    hopper::multiply<false, true>(sums.high, left, hopper::side(v + 2 * kBox + k * 16 * kLine, kBox), true);
  }
  hopper::commit_products();
}

__device__ __forceinline__ void finish(Sums sums, uint64_t* empty, const Role& role) {
  hopper::wait_for_products<0>();
  sums.pin();
  wgmma_attention::release(empty, role);
}

// Messages between the warpgroups.
enum Message { kFirstMost = 1, kSecondWeights = 2, kFirstWeights = 3, kBoth = 4 };
__device__ __forceinline__ void send(Message m) { hopper::arrive_at_some(m, kMultiplying); }
__device__ __forceinline__ void receive(Message m) { hopper::synchronize_some(m, kMultiplying); }

__device__ __forceinline__ void write_most(Shared& s, const float (&most)[2], const Role& role) {
  if (role.lane % 4 == 0)
#pragma unroll
    for (int r = 0; r < 2; ++r) s.most[role.group][role.row() + 8 * r] = most[r];
}

/// The warpgroup of the even pages: one of them and, unless `count` of the odd page after it is 0, that one's weights.
__device__ __forceinline__ void first_step(Sums sums, Softmax& softmax, Shared& s, const int (&count)[2],
                                           const uint32_t (&parity)[2], float scale, const Role& role) {
  float score[32], keep[2], most[2];
  Left weights[4];
  score_page(score, s, 0, parity[0], count[0], role);
  largest_scores(most, score, count[0], role);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    most[r] = fmaxf(most[r], softmax.most[r]);
    keep[r] = exp2_fast((softmax.most[r] - most[r]) * scale);
    softmax.most[r] = most[r];
    softmax.total[r] *= keep[r];
  }
  write_most(s, most, role);
  send(kFirstMost);
  weigh(score, softmax.total, most, scale);
  sums.scale(keep);
  wgmma_attention::pack_left(weights, score);
  add_own(sums, weights, s, 0, role);
  if (count[1] > 0) {
    receive(kSecondWeights);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      softmax.most[r] = s.most[1][role.row() + 8 * r];
      keep[r] = exp2_fast((most[r] - softmax.most[r]) * scale);
      softmax.total[r] *= keep[r];
    }
#pragma unroll
    for (int n = 0; n < 32; ++n) score[n] *= keep[n % 4 / 2];
    Left rescaled[4];
    wgmma_attention::pack_left(rescaled, score);
    share_weights(s.page[0][kRopeBox], rescaled, role);
    send(kFirstWeights);
    finish(sums, &s.empty[0][0], role);
    sums.scale(keep);
    hopper::wait_for(&s.full[1][0], parity[1]);
    add_shared(sums, s, 1, role);
    finish(sums, &s.empty[1][0], role);
  } else {
    share_weights(s.page[0][kRopeBox], weights, role);
    send(kFirstWeights);
    finish(sums, &s.empty[0][0], role);
  }
}

/// The warpgroup of the odd pages.
__device__ __forceinline__ void second_step(Sums sums, Softmax& softmax, Shared& s, const int (&count)[2],
                                            const uint32_t (&parity)[2], float scale, const Role& role) {
  float score[32], keep[2], most[2] = {-INFINITY, -INFINITY};
  Left weights[4];
  if (count[1] > 0) {
    score_page(score, s, 1, parity[1], count[1], role);
    largest_scores(most, score, count[1], role);
  }
  receive(kFirstMost);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    most[r] = fmaxf(most[r], s.most[0][role.row() + 8 * r]);
    keep[r] = exp2_fast((softmax.most[r] - most[r]) * scale);
    softmax.most[r] = most[r];
    softmax.total[r] *= keep[r];
  }
  if (count[1] > 0) {
    weigh(score, softmax.total, most, scale);
    wgmma_attention::pack_left(weights, score);
    share_weights(s.page[1][kRopeBox], weights, role);
    write_most(s, most, role);
    send(kSecondWeights);
    sums.scale(keep);
    add_own(sums, weights, s, 1, role);
    finish(sums, &s.empty[1][1], role);
  } else {
    sums.scale(keep);
  }
  receive(kFirstWeights);
  hopper::wait_for(&s.full[0][1], parity[0]);
  add_shared(sums, s, 0, role);
  finish(sums, &s.empty[0][1], role);
}

/// The values, normalised where the row has no other split.
__device__ __forceinline__ void store_values(const Job& job, Shared& s, const Item& item, const Sums& sums,
                                             const Softmax& softmax, const Role& role) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = softmax.total[r];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    if (role.lane % 4 == 0) s.total[role.group][role.row() + 8 * r] = total;
  }
  receive(kBoth);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = role.row() + 8 * r, h = item.h0 + row;
    const float total = s.total[0][row] + s.total[1][row], factor = item.splits == 1 ? 1 / total : 1.0f;
    const int64_t head = item.t * job.a.heads + h, at = head * job.out.splits + item.split;
    float* to = (item.splits == 1 ? job.u + head * kLatent : job.out.u + at * kLatent) + role.group * (kLatent / 2);
    if (h < job.a.heads) {
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        float2* pair = reinterpret_cast<float2*>(to + 8 * n + role.column());
        pair[0] = make_float2(sums.low[4 * n + 2 * r] * factor, sums.low[4 * n + 2 * r + 1] * factor);
        pair[64] = make_float2(sums.high[4 * n + 2 * r] * factor, sums.high[4 * n + 2 * r + 1] * factor);
      }
      if (item.splits > 1 && role.group == 0 && role.lane % 4 == 0)
        job.out.sums[at] = make_float2(softmax.most[r] * job.a.scale, total);
    }
  }
}

__device__ __forceinline__ void attend(Shared& s, const Job& job, const Item& item, uint32_t (&parity)[2],
                                       const Role& role) {
  const float scale = job.a.scale * kLog2E;
  float low[64], high[64];
  Sums sums{low, high};
  Softmax softmax;
  load_queries(s, job, item);
  sums.clear();
  receive(kBoth);
  for (int begin = 0; begin < item.count; begin += 2 * kKeys) {
    const int count[2] = {min(kKeys, item.count - begin), min(kKeys, max(0, item.count - begin - kKeys))};
    if (role.group == 0)
      first_step(sums, softmax, s, count, parity, scale, role);
    else
      second_step(sums, softmax, s, count, parity, scale, role);
    parity[0] ^= 1;
    parity[1] ^= count[1] > 0;
  }
  store_values(job, s, item, sums, softmax, role);
}

__global__ __launch_bounds__(kThreads, 1) void attend_items(const __grid_constant__ Job job,
                                                            const __grid_constant__ CUtensorMap cache) {
  extern __shared__ uint8_t memory[];
  Shared& s = wgmma_attention::shared_memory<Shared>(memory);
  if (threadIdx.x == 0) {
    for (int buffer = 0; buffer < 2; ++buffer)
      for (int half = 0; half < 2; ++half) {
        hopper::init_barrier(&s.full[buffer][half], 1);
        hopper::init_barrier(&s.empty[buffer][half], kWarpgroup / 32);
      }
    hopper::publish_barriers();
  }
  __syncthreads();
  wait_for_previous();
  if (threadIdx.x >= kMultiplying) {
    hopper::give_up_registers<24>();
    if (threadIdx.x == kMultiplying) feed(s, job, cache);
  } else {
    hopper::take_registers<240>();
    const Role role;
    uint32_t parity[2] = {};
    int index = static_cast<int>(blockIdx.x);
    for (Item item; next_item(item, job, index);) attend(s, job, item, parity, role);
  }
}

/// Pages as matrices of 64 rows.
MatrixStack page_stack(const Tensor& cache) {
  MatrixStack m;
  m.data = cache.data;
  m.element_bytes = 2;
  m.length = kWidth;
  m.lines = kKeys;
  m.count = cache.rows() / kKeys;
  m.pitch = kWidth * 2;
  m.step = kKeys * m.pitch;
  m.box_lines = kKeys;
  return m;
}

constexpr int kBytes = static_cast<int>(sizeof(Shared)) + wgmma_attention::kAlignment;

}  // namespace

bool is_wgmma_latent(const LatentRows& x, const LatentShape& a) {
  return a.latent == kLatent && a.rope == kRope && has_tensor_map(page_stack(x.cache)) &&
         reinterpret_cast<uintptr_t>(x.qa) % 16 == 0;
}

SplitRule wgmma_latent_rule(const LatentShape& a) {
  return a.heads <= kHeads ? SplitRule{256, 8, 1024, 16, 4096} : SplitRule{512, 2, 0, 0, 4096};
}

void wgmma_latent_splits(cudaStream_t s, const Partial& out, const LatentRows& x, const LatentShape& a) {
  const int tiles = static_cast<int>((a.heads + kHeads - 1) / kHeads);
  const int items = static_cast<int>(x.n * out.splits) * tiles;
  const Job job{out, x.u, x.qa, x.places, a, static_cast<int>(x.n), items, tiles};
  int device, processors;
  check_cuda(cudaGetDevice(&device), "the current GPU");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "its size");
  check_cuda(cudaFuncSetAttribute(attend_items, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "attention's shared memory");
  launch_early(s, attend_items, static_cast<unsigned>(std::min(items, processors)), kThreads, kBytes, job,
               tensor_map(page_stack(x.cache)));
  check_launch("infer_attention");
}

}  // namespace sluice::cuda
