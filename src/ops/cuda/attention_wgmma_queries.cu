// Gradient of the queries: the gradients of scores that attention_wgmma_keys.cu left, times the keys. A block takes 256
// queries of one head, two waves per warpgroup, and goes over the keys in steps of 64.
#include "ops/cuda/attention_wgmma_backward.cuh"

namespace sluice::cuda::wgmma_attention {
namespace {

constexpr int kWaves = 2, kTileWaves = kMultipliers * kWaves, kStages = 4;

struct Shared {
  uint8_t k[kStages][kWidth / kLineColumns][kWaveBox];
  uint8_t gradient[kStages][kTileWaves][kWaveBox];
  int waves[kStages];  // bit n: there is a gradient for wave n of the tile; -1: the item's end
  uint64_t full[kStages], empty[kStages];
  ItemQueue queue;
};

struct Maps {
  CUtensorMap kv, rope;
};

/// The waves of an item that see any of 64 keys, bit by bit.
__device__ int waves_of(const Work& w, const Item& item, int step) {
  int waves = 0;
  for (int n = 0; n < kTileWaves; ++n) {
    const int wave = item.tile * kTileWaves + n;
    if (wave < w.waves() && step <= wave && w.reaches(item.head, wave, (step / 2 + 1) * kKeys)) waves |= 1 << n;
  }
  return waves;
}

__device__ __forceinline__ void feed_step(const Work& w, const Backward& b, Shared& s, const Maps& maps,
                                          const Item& item, int step, int waves, const Place<kStages>& place) {
  const int column = item.head % w.heads * (kNope + kValue), sequence = w.sequence(item.head), key = step * kWave;
  uint64_t* full = &s.full[place.stage];
  hopper::arrive_expecting(full, sizeof s.k[0] + __popc(waves) * kWaveBox);
  for (int box = 0; box < kNope / kLineColumns; ++box)
    hopper::copy_box(s.k[place.stage][box], maps.kv, full, column + box * kLineColumns, key, sequence);
  hopper::copy_box(s.k[place.stage][kNope / kLineColumns], maps.rope, full, 0, key, sequence);
  for (int n = 0; n < kTileWaves; ++n)
    if (waves >> n & 1)
      hopper::copy_bytes(s.gradient[place.stage][n],
                         b.gradient(w, item.head, item.tile * kTileWaves + n, step / 2) + step % 2 * kWaveBox, kWaveBox,
                         full);
}

/// One thread: keys and gradients of all items.
__device__ __forceinline__ void feed(const Work& w, const Backward& b, Shared& s, const Maps& maps) {
  Place<2> queue;
  Place<kStages> place;
  const int tiles = (w.waves() + kTileWaves - 1) / kTileWaves;
  for (;;) {
    const Item item = next_item(w, tiles, true);
    s.queue.push(item, queue);
    if (item.head < 0) return;
    const int end = min((item.tile + 1) * kTileWaves, w.waves());
    for (int step = 0; step <= end; ++step) {
      const int waves = step < end ? waves_of(w, item, step) : -1;
      if (waves == 0) continue;
      hopper::wait_for(&s.empty[place.stage], place.parity ^ 1);
      s.waves[place.stage] = waves;
      if (waves > 0)
        feed_step(w, b, s, maps, item, step, waves, place);
      else
        hopper::arrive(&s.full[place.stage]);
      place.advance();
    }
  }
}

__device__ __forceinline__ void store_wave(const Work& w, Rows<half_t> d_q, const Item& item, const Role& role,
                                           const float (&sum)[96], int n) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int t = (item.tile * kTileWaves + n) * kWave + role.row() + 8 * r;
    half_t* to = d_q.data + (w.row0(item.head) + t) * d_q.ld + item.head % w.heads * kWidth;
#pragma unroll
    for (int c = 0; c < kWidth; c += 32) store_columns(to + c, sum, c, 2 * r, w.scale, role.lane, t < w.tokens);
  }
}

/// One wave: 64 of k.
__device__ __forceinline__ void multiply_wave(float (&sum)[96], const Shared& s, int stage, int n, bool keep) {
  const uint32_t a = hopper::shared_address(s.gradient[stage][n]), b = hopper::shared_address(s.k[stage]);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    hopper::multiply<true, true>(sum, hopper::side(a + k * 16 * kLine, kWaveBox),
                                 hopper::side(b + k * 16 * kLine, kWaveBox), keep || k > 0);
}

/// A warpgroup: its waves of one item, n = group and n = group + 2.
__device__ __forceinline__ void sum_gradients(const Work& w, Shared& s, Rows<half_t> d_q, const Item& item,
                                              const Role& role, Place<kStages>& place) {
  float low[96], high[96];
  bool has_low = false, has_high = false;
  int before = -1;
  for (;; place.advance()) {
    hopper::wait_for(&s.full[place.stage], place.parity);
    const int waves = __shfl_sync(0xffffffffu, s.waves[place.stage], 0) >> role.group;
    if (waves < 0) break;
    hopper::begin_products();
    if (waves & 1) multiply_wave(low, s, place.stage, role.group, has_low);
    if (waves & 4) multiply_wave(high, s, place.stage, role.group + kMultipliers, has_high);
    hopper::commit_products();
    has_low |= waves & 1, has_high |= (waves & 4) != 0;
    hopper::wait_for_products<1>();
    if (before >= 0) release(&s.empty[before], role);
    before = place.stage;
  }
  hopper::wait_for_products<0>();
  hopper::pin(low);
  hopper::pin(high);
  if (before >= 0) release(&s.empty[before], role);
  release(&s.empty[place.stage], role);
  place.advance();
  store_wave(w, d_q, item, role, low, role.group);
  store_wave(w, d_q, item, role, high, role.group + kMultipliers);
}

__global__ __launch_bounds__(kThreads, 1) void query_gradients(const __grid_constant__ Work w,
                                                               const __grid_constant__ Backward b, Rows<half_t> d_q,
                                                               const __grid_constant__ Maps maps) {
  extern __shared__ uint8_t memory[];
  Shared& s = shared_memory<Shared>(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      hopper::init_barrier(&s.full[stage], 1);
      hopper::init_barrier(&s.empty[stage], kMultipliers * kWarpgroup / 32);
    }
    s.queue.init();
    hopper::publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x >= kMultipliers * kWarpgroup) {
    hopper::give_up_registers<40>();
    if (threadIdx.x == kMultipliers * kWarpgroup) feed(w, b, s, maps);
  } else {
    hopper::take_registers<232>();
    const Role role;
    Place<2> queue;
    Place<kStages> place;
    for (;;) {
      const Item item = s.queue.pop(queue, role.lane);
      if (item.head < 0) break;
      sum_gradients(w, s, d_q, item, role, place);
    }
  }
}

}  // namespace

void backward_queries(cudaStream_t stream, const Work& w, const Backward& b, const Tensor& d_q,
                      const AttentionInputs& in, const AttentionShape& a) {
  const Maps maps{head_map(in.kv, a, kWave), head_map(in.k_rope, a, kWave)};
  launch_persistent(stream, query_gradients, sizeof(Shared) + kAlignment, kThreads, w.counter,
                    "attention_backward_input", w, b, rows<half_t>(d_q), maps);
}

}  // namespace sluice::cuda::wgmma_attention
