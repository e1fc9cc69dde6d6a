// Gradients of keys and values: a block takes 128 keys of one head, 64 per warpgroup, and goes over the waves of
// queries that see them. Scores are multiplied with the keys as rows, so that weights and their gradients, in
// registers, are left sides of the sums' products. The gradients also go to memory, as the left side of the gradient of
// the queries.
#include "ops/cuda/attention_wgmma_backward.cuh"

namespace sluice::cuda::wgmma_attention {
namespace {

constexpr int kStages = 2, kBuffers = 3;

/// A wave of queries on its way.
struct Step {
  int wave;
  bool is_masked, is_last;
};

struct Shared {
  uint8_t k[kWidth / kLineColumns][kPairBox];
  uint8_t v[kValue / kLineColumns][kPairBox];
  uint8_t q[kStages][kWidth / kLineColumns][kWaveBox];
  uint8_t d_o[kStages][kValue / kLineColumns][kWaveBox];
  uint8_t gradient[kBuffers][kMultipliers][kWaveBox];
  Stats stats[kStages][kWave];
  Step steps[kStages];
  uint64_t kv_full, kv_empty, full[kStages], empty[kStages];
  ItemQueue queue;
};

struct Maps {
  CUtensorMap q, d_o, kv, rope;
};

struct Outputs {
  Rows<half_t> kv;
  float* rope_HTR;
};

__device__ __forceinline__ void feed_keys(const Work& w, Shared& s, const Maps& maps, const Item& item) {
  const int column = item.head % w.heads * (kNope + kValue), sequence = w.sequence(item.head), key = item.tile * kKeys;
  hopper::arrive_expecting(&s.kv_full, sizeof s.k + sizeof s.v);
  for (int box = 0; box < kNope / kLineColumns; ++box)
    hopper::copy_box(s.k[box], maps.kv, &s.kv_full, column + box * kLineColumns, key, sequence);
  hopper::copy_box(s.k[kNope / kLineColumns], maps.rope, &s.kv_full, 0, key, sequence);
  for (int box = 0; box < kValue / kLineColumns; ++box)
    hopper::copy_box(s.v[box], maps.kv, &s.kv_full, column + kNope + box * kLineColumns, key, sequence);
}

__device__ __forceinline__ void feed_wave(const Work& w, const Backward& b, Shared& s, const Maps& maps,
                                          const Item& item, const Step& step, const Place<kStages>& place) {
  const int head = item.head % w.heads, sequence = w.sequence(item.head), query = step.wave * kWave;
  uint64_t* full = &s.full[place.stage];
  hopper::wait_for(&s.empty[place.stage], place.parity ^ 1);
  s.steps[place.stage] = step;
  hopper::arrive_expecting(full, sizeof s.q[0] + sizeof s.d_o[0] + sizeof s.stats[0]);
  for (int box = 0; box < kWidth / kLineColumns; ++box)
    hopper::copy_box(s.q[place.stage][box], maps.q, full, head * kWidth + box * kLineColumns, query, sequence);
  for (int box = 0; box < kValue / kLineColumns; ++box)
    hopper::copy_box(s.d_o[place.stage][box], maps.d_o, full, head * kValue + box * kLineColumns, query, sequence);
  const int64_t at = static_cast<int64_t>(item.head) * w.waves() * kWave + query;
  hopper::copy_bytes(s.stats[place.stage], b.stats + at, sizeof s.stats[0], full);
}

/// One thread: keys, values and waves of queries of all items.
__device__ __forceinline__ void feed(const Work& w, const Backward& b, Shared& s, const Maps& maps) {
  Place<2> queue;
  Place<1> kv;
  Place<kStages> place;
  for (;;) {
    const Item item = next_item(w, key_tiles(w), false);
    s.queue.push(item, queue);
    if (item.head < 0) return;
    hopper::wait_for(&s.kv_empty, kv.parity ^ 1);
    kv.advance();
    feed_keys(w, s, maps, item);
    const int begin = item.tile * kKeys, end = begin + kKeys;
    const auto following = [&](int wave) {
      while (wave < w.waves() && !w.reaches(item.head, wave, end)) ++wave;
      return wave;
    };
    for (int wave = 2 * item.tile; wave < w.waves(); place.advance()) {
      const int next = following(wave + 1);
      const bool is_masked = wave * kWave < end || w.span(item.head, wave).most > begin;
      feed_wave(w, b, s, maps, item, {wave, is_masked, next >= w.waves()}, place);
      wave = next;
    }
  }
}

/// Weights of a thread's rows of keys: exp(score - lse), 0 where the query does not see the key.
__device__ __forceinline__ void weigh(float (&score)[32], const Work& w, const Item& item, const Step& step,
                                      const Stats* stats, const Role& role) {
  const float scale = w.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float4 two = *reinterpret_cast<const float4*>(stats + 8 * n + role.column());
#pragma unroll
    for (int c = 0; c < 4; ++c) score[4 * n + c] = exp2_fast(fmaf(score[4 * n + c], scale, c % 2 ? -two.z : -two.x));
  }
  if (!step.is_masked) return;
  const int key = item.tile * kKeys + role.group * kWave + role.row();
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int query = step.wave * kWave + 8 * n + role.column() + c;
      const int first = w.first_T && query < w.tokens ? w.first_T[w.row0(item.head) + query] : 0;
      if (key > query || key < first) score[4 * n + c] = 0;
      if (key + 8 > query || key + 8 < first) score[4 * n + c + 2] = 0;
    }
}

/// gradient := weight (gradient - delta), packed; without the scale, which the sums get at the end.
__device__ __forceinline__ void derive(hopper::Left (&packed)[4], const float (&gradient)[32],
                                       const hopper::Left (&weights)[4], const Stats* stats, const Role& role) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float4 two = *reinterpret_cast<const float4*>(stats + 8 * n + role.column());
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t p = weights[n / 2][n % 2 * 2 + r];
      packed[n / 2][n % 2 * 2 + r] = pack(unpack_first(p) * (gradient[4 * n + 2 * r] - two.y),
                                          unpack_second(p) * (gradient[4 * n + 2 * r + 1] - two.w));
    }
  }
}

/// 64 keys by 64 queries to swizzled lines, one per key.
__device__ __forceinline__ void write_lines(uint8_t* lines, const hopper::Left (&d)[4], const Role& role) {
  const int matrix = role.lane / 8, row = role.lane % 8;
  const uint32_t line = hopper::shared_address(lines) + (role.warp * 16 + matrix % 2 * 8 + row) * kLine;
#pragma unroll
  for (int k = 0; k < 4; ++k) hopper::store_matrices(line + ((2 * k + matrix / 2) ^ row) * 16, d[k]);
}

__device__ __forceinline__ void store_gradients(const Work& w, const Outputs& out, const Item& item, const Role& role,
                                                const float (&d_key)[96], const float (&d_value)[64]) {
  const int head = item.head % w.heads;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = item.tile * kKeys + role.group * kWave + role.row() + 8 * r;
    const bool is_row = t < w.tokens;
    half_t* to = out.kv.data + (w.row0(item.head) + t) * out.kv.ld + head * (kNope + kValue);
#pragma unroll
    for (int c = 0; c < kNope; c += 32) store_columns(to + c, d_key, c, 2 * r, w.scale, role.lane, is_row);
#pragma unroll
    for (int c = 0; c < kValue; c += 32) store_columns(to + kNope + c, d_value, c, 2 * r, 1.0f, role.lane, is_row);
    if (!is_row) continue;
    float* rope = out.rope_HTR + (head * w.rows + w.row0(item.head) + t) * kRope + role.column();
#pragma unroll
    for (int n = 0; n < kRope / 8; ++n) {
      const int at = kNope / 2 + 4 * n + 2 * r;
      *reinterpret_cast<float2*>(rope + 8 * n) = make_float2(d_key[at] * w.scale, d_key[at + 1] * w.scale);
    }
  }
}

/// A warpgroup: its keys of one item.
__device__ __forceinline__ void sum_gradients(const Work& w, const Backward& b, Shared& s, const Outputs& out,
                                              const Item& item, const Role& role, Place<kStages>& place, int& buffer) {
  const uint32_t keys = hopper::shared_address(s.k) + role.group * kWaveBox;
  const uint32_t values = hopper::shared_address(s.v) + role.group * kWaveBox;
  float d_key[96], d_value[64];
  bool is_last = false;
  for (bool has_sums = false; !is_last; has_sums = true, place.advance()) {
    const int stage = place.stage;
    float score[32], gradient[32];
    hopper::Left weights[4], packed[4];
    hopper::wait_for(&s.full[stage], place.parity);
    const Step step = s.steps[stage];
    is_last = step.is_last;
    const uint32_t q = hopper::shared_address(s.q[stage]), d_o = hopper::shared_address(s.d_o[stage]);
    hopper::begin_products();
    multiply_along<3>(score, keys, kPairBox, q, kWaveBox);
    hopper::commit_products();
    hopper::wait_for_products<0>();
    hopper::pin(score);
    weigh(score, w, item, step, s.stats[stage], role);
    pack_left(weights, score);
    hopper::pin(d_value);
    hopper::begin_products();
    multiply_along<2>(gradient, values, kPairBox, d_o, kWaveBox);
    hopper::commit_products();
    multiply_left(d_value, weights, d_o, kWaveBox, has_sums);
    hopper::commit_products();
    hopper::wait_for_products<1>();
    hopper::pin(gradient);
    derive(packed, gradient, weights, s.stats[stage], role);
    hopper::pin(d_key);
    hopper::begin_products();
    multiply_left(d_key, packed, q, kWaveBox, has_sums);
    hopper::commit_products();
    write_lines(s.gradient[buffer][role.group], packed, role);
    hopper::publish_to_engines();
    hopper::synchronize_some(1 + role.group, kWarpgroup);
    if (threadIdx.x % kWarpgroup == 0) {
      hopper::store_bytes(b.gradient(w, item.head, step.wave, item.tile) + role.group * kWaveBox,
                          s.gradient[buffer][role.group], kWaveBox);
      hopper::commit_stores();
      hopper::wait_for_reads_of_stores<1>();  // the one before; a buffer is written again two steps later
    }
    if (++buffer == kBuffers) buffer = 0;
    hopper::wait_for_products<0>();
    hopper::pin(d_value);
    hopper::pin(d_key);
    release(&s.empty[stage], role);
  }
  release(&s.kv_empty, role);
  store_gradients(w, out, item, role, d_key, d_value);
}

__global__ __launch_bounds__(kThreads, 1) void key_gradients(const __grid_constant__ Work w,
                                                             const __grid_constant__ Backward b,
                                                             const __grid_constant__ Outputs out,
                                                             const __grid_constant__ Maps maps) {
  extern __shared__ uint8_t memory[];
  Shared& s = shared_memory<Shared>(memory);
  if (threadIdx.x == 0) {
    constexpr int kWarps = kMultipliers * kWarpgroup / 32;
    hopper::init_barrier(&s.kv_full, 1);
    hopper::init_barrier(&s.kv_empty, kWarps);
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::init_barrier(&s.full[stage], 1);
      hopper::init_barrier(&s.empty[stage], kWarps);
    }
    s.queue.init();
    hopper::publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x >= kMultipliers * kWarpgroup) {
    hopper::give_up_registers<24>();
    if (threadIdx.x == kMultipliers * kWarpgroup) feed(w, b, s, maps);
  } else {
    hopper::take_registers<240>();
    const Role role;
    Place<2> queue;
    Place<1> kv;
    Place<kStages> place;
    int buffer = 0;
    for (;;) {
      const Item item = s.queue.pop(queue, role.lane);
      if (item.head < 0) break;
      hopper::wait_for(&s.kv_full, kv.parity);
      kv.advance();
      sum_gradients(w, b, s, out, item, role, place, buffer);
    }
    if (threadIdx.x % kWarpgroup == 0) hopper::wait_for_stores();
  }
}

}  // namespace

void backward_keys(cudaStream_t stream, const Work& w, const Backward& b, const Tensor& d_kv, float* d_rope_HTR,
                   const Tensor& d_o, const AttentionInputs& in, const AttentionShape& a) {
  const Maps maps{head_map(in.q, a, kWave), head_map(d_o, a, kWave), head_map(in.kv, a, kKeys),
                  head_map(in.k_rope, a, kKeys)};
  const Outputs out{rows<half_t>(d_kv), d_rope_HTR};
  launch_persistent(stream, key_gradients, sizeof(Shared) + kAlignment, kThreads, w.counter, "attention_backward_input",
                    w, b, out, maps);
}

}  // namespace sluice::cuda::wgmma_attention
