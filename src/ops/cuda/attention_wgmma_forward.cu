// The forward pass: a block takes 128 queries of one head, 64 per warpgroup, and goes over blocks of 128 keys from the
// diagonal down. The scores of the next block are multiplied while those of this one are weighted; the two warpgroups
// take turns at the tensor cores.
#include "ops/cuda/attention_wgmma.cuh"
#include "ops/cuda/attention_wgmma_launch.h"

namespace sluice::cuda::wgmma_attention {
namespace {

constexpr int kTile = 128, kStages = 2;  // queries, and keys of a block

struct Shared {
  uint8_t q[kWidth / kLineColumns][kPairBox];
  uint8_t k[kStages][kWidth / kLineColumns][kPairBox];
  uint8_t v[kStages][kValue / kLineColumns][kPairBox];
  uint64_t q_full, q_empty, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  ItemQueue queue;
};

struct Outputs {
  Rows<half_t> o;
  float* lse;  // (T, H)
};

struct Maps {
  CUtensorMap q, kv, rope;
};

/// Which blocks of keys a tile sees: from `first` on, of which those from `unmasked` to the diagonal are seen by all.
__device__ Item forward_item(const Work& w) {
  Item item = next_item(w, (w.tokens + kTile - 1) / kTile - w.first_tile, true);
  item.tile += w.first_tile;
  if (item.head < 0 || !w.spans) return item;
  Span span = w.span(item.head, 2 * item.tile);
  if (2 * item.tile + 1 < w.waves()) {
    const Span other = w.span(item.head, 2 * item.tile + 1);
    span = {min(span.least, other.least), max(span.most, other.most)};
  }
  item.first = span.least / kTile;
  item.unmasked = (span.most + kTile - 1) / kTile;
  return item;
}

/// One thread: queries, keys and values of all items.
__device__ __forceinline__ void feed(const Work& w, Shared& s, const Maps& maps) {
  Place<2> queue;
  Place<1> q;
  Place<kStages> k, v;
  const auto copy_key = [&](const Item& item, int block) {
    const int column = item.head % w.heads * (kNope + kValue), sequence = w.sequence(item.head);
    uint64_t* full = &s.k_full[k.stage];
    hopper::wait_for(&s.k_empty[k.stage], k.parity ^ 1);
    hopper::arrive_expecting(full, sizeof s.k[0]);
    for (int box = 0; box < kNope / kLineColumns; ++box)
      hopper::copy_box(s.k[k.stage][box], maps.kv, full, column + box * kLineColumns, block * kTile, sequence);
    hopper::copy_box(s.k[k.stage][kNope / kLineColumns], maps.rope, full, 0, block * kTile, sequence);
    k.advance();
  };
  for (;;) {
    const Item item = forward_item(w);
    s.queue.push(item, queue);
    if (item.head < 0) return;
    const int head = item.head % w.heads, sequence = w.sequence(item.head);
    hopper::wait_for(&s.q_empty, q.parity ^ 1);
    hopper::arrive_expecting(&s.q_full, sizeof s.q);
    for (int box = 0; box < kWidth / kLineColumns; ++box)
      hopper::copy_box(s.q[box], maps.q, &s.q_full, head * kWidth + box * kLineColumns, item.tile * kTile, sequence);
    q.advance();
    copy_key(item, item.tile);
    for (int block = item.tile; block >= item.first; --block, v.advance()) {
      if (block > item.first) copy_key(item, block - 1);
      uint64_t* full = &s.v_full[v.stage];
      hopper::wait_for(&s.v_empty[v.stage], v.parity ^ 1);
      hopper::arrive_expecting(full, sizeof s.v[0]);
      for (int box = 0; box < kValue / kLineColumns; ++box)
        hopper::copy_box(s.v[v.stage][box], maps.kv, full, head * (kNope + kValue) + kNope + box * kLineColumns,
                         block * kTile, sequence);
    }
  }
}

/// The running softmax of a thread's two rows. Totals are this thread's share.
struct Softmax {
  float most[2], total[2];
  int first[2], query;  // of the first row; the other is 8 further down

  __device__ __forceinline__ Softmax(const Work& w, const Item& item, const Role& role)
      : query(item.tile * kTile + role.group * kWave + role.row()) {
    for (int r = 0; r < 2; ++r) {
      const int t = query + 8 * r;
      first[r] = w.first_T && t < w.tokens ? w.first_T[w.row0(item.head) + t] : 0;
    }
  }

  __device__ __forceinline__ void mask(float (&score)[64], int column) const {
#pragma unroll
    for (int n = 0; n < 16; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int key = column + 8 * n + c % 2;
        if (key > query + c / 2 * 8 || key < first[c / 2]) score[4 * n + c] = -INFINITY;
      }
  }
  /// Scores become weights; `keep` is what earlier sums are multiplied by.
  template <bool kIsFirst>
  __device__ __forceinline__ void weigh(float (&score)[64], float (&keep)[2], float scale) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = score[2 * r];
#pragma unroll
      for (int n = 0; n < 16; ++n) largest = fmaxf(largest, fmaxf(score[4 * n + 2 * r], score[4 * n + 2 * r + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      if (!kIsFirst) largest = fmaxf(largest, most[r]);
      const float base = largest * scale;
      if (!kIsFirst) keep[r] = exp2_fast(fmaf(most[r], scale, -base));
      most[r] = largest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < 16; ++n)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c) {
          score[4 * n + c] = exp2_fast(fmaf(score[4 * n + c], scale, -base));
          sum += score[4 * n + c];
        }
      total[r] = kIsFirst ? sum : total[r] * keep[r] + sum;
    }
  }
};

__device__ __forceinline__ void take_turn(const Role& role) {
  hopper::synchronize_some(1 + role.group, kMultipliers * kWarpgroup);
}
__device__ __forceinline__ void pass_turn(const Role& role) {
  hopper::arrive_at_some(2 - role.group, kMultipliers * kWarpgroup);
}

__device__ __forceinline__ void store_outputs(const Work& w, const Outputs& out, const Item& item, const Role& role,
                                              const float (&o)[64], const Softmax& softmax) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = softmax.total[r];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const int t = softmax.query + 8 * r, head = item.head % w.heads;
    const bool is_row = t < w.tokens;
    const int64_t row = w.row0(item.head) + t;
    half_t* to = out.o.data + row * out.o.ld + head * kValue;
    const float factor = 1 / total;
#pragma unroll
    for (int c = 0; c < kValue; c += 32) store_columns(to + c, o, c, 2 * r, factor, role.lane, is_row);
    if (is_row && role.lane % 4 == 0) out.lse[row * w.heads + head] = softmax.most[r] * w.scale + logf(total);
  }
}

/// A warpgroup: its queries of one item.
__device__ __forceinline__ void attend(const Work& w, Shared& s, const Outputs& out, const Item& item, const Role& role,
                                       uint32_t q_parity, Place<kStages>& k, Place<kStages>& v) {
  const uint32_t q = hopper::shared_address(s.q) + role.group * kWaveBox;
  const float scale = w.scale * kLog2E;
  float o[64], score[64], keep[2];
  hopper::Left weights[8];
  Softmax softmax(w, item, role);
  hopper::wait_for(&s.q_full, q_parity);
  hopper::wait_for(&s.k_full[k.stage], k.parity);
  hopper::begin_products();
  multiply_along<3>(score, q, kPairBox, hopper::shared_address(s.k[k.stage]), kPairBox);
  hopper::commit_products();
  hopper::wait_for_products<0>();
  hopper::pin(score);
  release(&s.k_empty[k.stage], role);
  k.advance();
  softmax.mask(score, item.tile * kTile + role.column());
  softmax.weigh<true>(score, keep, scale);
  pack_left(weights, score);
  bool has_sums = false;
  for (int block = item.tile - 1; block >= item.first; --block) {
    hopper::wait_for(&s.k_full[k.stage], k.parity);
    take_turn(role);
    hopper::pin(score);
    hopper::pin(o);
    hopper::begin_products();
    multiply_along<3>(score, q, kPairBox, hopper::shared_address(s.k[k.stage]), kPairBox);
    hopper::commit_products();
    hopper::wait_for(&s.v_full[v.stage], v.parity);
    multiply_left(o, weights, hopper::shared_address(s.v[v.stage]), kPairBox, has_sums);
    has_sums = true;
    hopper::commit_products();
    pass_turn(role);
    hopper::wait_for_products<1>();
    hopper::pin(score);
    release(&s.k_empty[k.stage], role);
    k.advance();
    if (block < item.unmasked) softmax.mask(score, block * kTile + role.column());
    softmax.weigh<false>(score, keep, scale);
    hopper::wait_for_products<0>();
    hopper::pin(o);
    release(&s.v_empty[v.stage], role);
    v.advance();
    pack_left(weights, score);
#pragma unroll
    for (int n = 0; n < 64; ++n) o[n] *= keep[n % 4 / 2];
  }
  release(&s.q_empty, role);
  hopper::wait_for(&s.v_full[v.stage], v.parity);
  hopper::pin(o);
  hopper::begin_products();
  multiply_left(o, weights, hopper::shared_address(s.v[v.stage]), kPairBox, has_sums);
  hopper::commit_products();
  hopper::wait_for_products<0>();
  hopper::pin(o);
  release(&s.v_empty[v.stage], role);
  v.advance();
  store_outputs(w, out, item, role, o, softmax);
}

__global__ __launch_bounds__(kThreads, 1) void attention_tiles(const __grid_constant__ Work w,
                                                               const __grid_constant__ Outputs out,
                                                               const __grid_constant__ Maps maps) {
  extern __shared__ uint8_t memory[];
  Shared& s = shared_memory<Shared>(memory);
  if (threadIdx.x == 0) {
    constexpr int kWarps = kMultipliers * kWarpgroup / 32;
    hopper::init_barrier(&s.q_full, 1);
    hopper::init_barrier(&s.q_empty, kWarps);
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::init_barrier(&s.k_full[stage], 1);
      hopper::init_barrier(&s.v_full[stage], 1);
      hopper::init_barrier(&s.k_empty[stage], kWarps);
      hopper::init_barrier(&s.v_empty[stage], kWarps);
    }
    s.queue.init();
    hopper::publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x >= kMultipliers * kWarpgroup) {
    hopper::give_up_registers<24>();
    if (threadIdx.x == kMultipliers * kWarpgroup) feed(w, s, maps);
  } else {
    hopper::take_registers<240>();
    const Role role;
    if (role.group == 1) pass_turn(role);
    Place<2> queue;
    Place<1> q;
    Place<kStages> k, v;
    for (;;) {
      const Item item = s.queue.pop(queue, role.lane);
      if (item.head < 0) break;
      attend(w, s, out, item, role, q.parity, k, v);
      q.advance();
    }
  }
}

}  // namespace

void forward(cudaStream_t stream, const Work& w, const Tensor& o, const Tensor& lse, const AttentionInputs& in,
             const AttentionShape& a) {
  const Maps maps{head_map(in.q, a, kTile), head_map(in.kv, a, kTile), head_map(in.k_rope, a, kTile)};
  const Outputs out{rows<half_t>(o), lse.f32()};
  launch_persistent(stream, attention_tiles, sizeof(Shared) + kAlignment, kThreads, w.counter, "attention_forward", w,
                    out, maps);
}

}  // namespace sluice::cuda::wgmma_attention
