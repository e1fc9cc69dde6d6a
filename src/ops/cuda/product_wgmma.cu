// One block has two warpgroups that multiply and a warp that keeps the copy engine busy, a few stages ahead. It stays
// for as many tiles as come its way. A tile is 128 or 256 x 128 outputs; 64 rows of it, a wave, are one accumulator of
// a warpgroup. Two blocks of a cluster work on neighbouring columns and bring each other half of the rows.
#include "ops/cuda/product_wgmma.h"

#include "ops/cuda/tensor_map.h"
#include "ops/cuda/wgmma_store.cuh"
#include "ops/cuda/wgmma_tile.cuh"

namespace sluice::cuda {
namespace {

/// Lines of one side of a stage. `rows` rows of it from row `row` on, for the blocks in `mask` (0: this one alone).
template <bool kAlong, int kRows>
__device__ __forceinline__ void copy_side(uint8_t* to, const CUtensorMap& map, uint64_t* full, uint16_t mask, int3 at) {
  const auto copy = [&](uint8_t* box, int x, int y) {
    if (mask == 0)
      hopper::copy_box(box, map, full, x, y, at.z);
    else
      hopper::copy_box_to(mask, box, map, full, x, y, at.z);
  };
  if constexpr (kAlong) {
    copy(to, at.x, at.y);
  } else {
#pragma unroll
    for (int r = 0; r < kRows; r += kWave) copy(to + r * kLine, at.y + r, at.x);
  }
}

/// One thread: all that the block's tiles need, as stages become free.
template <class C>
__device__ __forceinline__ void feed(const Product& p, Shared<C>& s, const CUtensorMap& map_a,
                                     const CUtensorMap& map_b) {
  constexpr int kShareRows = C::kRows / C::kCluster;
  const int share = static_cast<int>(blockIdx.x) % C::kCluster * kShareRows;
  constexpr uint16_t kMask = C::kCluster > 1 ? (1 << C::kCluster) - 1 : 0;
  Tiles<C> tiles(p);
  Place<C::kStages> place;
  for (Tile t; tiles.next(t);) {
    const int scales = C::kColumnScales ? max(0, min(kCols, static_cast<int>(p.N) - t.col)) * 4 : 0;
    for (int step = 0; step < steps<C>(t); ++step, place.advance()) {
      uint64_t* full = &s.full[place.stage];
      const int k = t.k + step * C::kDepth;
      hopper::wait_for(&s.empty[place.stage], place.parity ^ 1);
      hopper::arrive_expecting(full, C::kBytesA + C::kBytesB + scales);
      copy_side<C::kAlongA, kShareRows>(s.a[place.stage] + share * kLine, map_a, full, kMask,
                                        make_int3(k, t.row + share, 0));
      copy_side<C::kAlongB, kCols>(s.b[place.stage], map_b, full, 0, make_int3(k, t.col, p.b.data ? 0 : t.expert));
      if (scales > 0)
        hopper::copy_bytes(s.scale_b[place.stage], p.b.scale + (t.group + step) * p.b.inner + t.col, scales, full);
    }
  }
}

template <class C>
__device__ __forceinline__ void release(Shared<C>& s, int stage, const Role& role) {
  if (role.lane < C::kCluster) hopper::arrive_at(&s.empty[stage], static_cast<uint32_t>(role.lane));
}

/// The scales of the rows of a thread, and of the columns of the tile where they have one in common.
template <class C, int kWaves>
class Scales {
 public:
  __device__ Scales(const Product& p, const Tile& t, const Role& role) : p_(p) {
#pragma unroll
    for (int n = 0; n < 2 * kWaves; ++n) {
      const int row = min(t.row + role.wave_row(n / 2) + role.thread_row() + n % 2 * 8, t.row_end - 1);
      a_[n] = row * static_cast<int>(p.a.outer) + t.group * static_cast<int>(p.a.inner);
    }
    if (C::kColumnScales) return;
    const int col = min(t.col, static_cast<int>(p.N) - 1);
    b_ = (p.b.data ? p.b.scale : p.bank.scales[t.expert]) + col / kGroup * p.b.outer;
  }
  /// Those of the next 128 of k, which are here by the time that the products are.
  __device__ void load() {
#pragma unroll
    for (int n = 0; n < 2 * kWaves; ++n) {
      row[n] = __ldg(p_.a.scale + a_[n]);
      a_[n] += static_cast<int>(p_.a.inner);
    }
    if (C::kColumnScales) return;
    col = __ldg(b_);
    b_ += p_.b.inner;
  }

  float row[2 * kWaves], col = 1;

 private:
  const Product& p_;
  const float* b_ = nullptr;
  int a_[2 * kWaves];
};

/// sum += part times the scales of its two rows, and of its columns where they have their own.
template <bool kColumnScales>
__device__ __forceinline__ void promote(Sums& sum, const Sums& part, float top, float bottom, const float* cols,
                                        int lane) {
#pragma unroll
  for (int n = 0; n < kCols / 8; ++n) {
    float left = 1, right = 1;
    if constexpr (kColumnScales) {
      const float2 pair = *reinterpret_cast<const float2*>(cols + 8 * n + lane % 4 * 2);
      left = pair.x, right = pair.y;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float row = c < 2 ? top : bottom;
      sum[4 * n + c] = fmaf(part[4 * n + c], kColumnScales ? row * (c % 2 ? right : left) : row, sum[4 * n + c]);
    }
  }
}

constexpr int kTurn = 3;  // barriers: a warpgroup's turn to queue products

__device__ __forceinline__ void multiply_128(Sums& part, uint32_t a, uint32_t b, const Role& role) {
  hopper::synchronize_some(kTurn + role.group, kMultipliers * kWarpgroup);
  hopper::pin(part);
  hopper::begin_products();
#pragma unroll
  for (int k = 0; k < kLine; k += 32) hopper::multiply_e4m3(part, hopper::side(a + k), hopper::side(b + k), k > 0);
  hopper::commit_products();
  hopper::arrive_at_some(kTurn + 1 - role.group, kMultipliers * kWarpgroup);
}

/// All of k of a tile of codes: the sum of every 128 of k is scaled and added in float32. The warpgroups take turns, so
/// that the tensor cores work for one while the other adds.
template <class C, int kWaves>
__device__ __forceinline__ void multiply_codes(Sums (&sum)[C::kWaves], const Product& p, const Tile& t,
                                               const Role& role, Shared<C>& s, Place<C::kStages>& place) {
  Scales<C, kWaves> scales(p, t, role);
  Sums part;
  for (int left = steps<C>(t); left > 0; --left, place.advance()) {
    scales.load();
    hopper::wait_for(&s.full[place.stage], place.parity);
    const uint32_t a = hopper::shared_address(s.a[place.stage]), b = hopper::shared_address(s.b[place.stage]);
#pragma unroll
    for (int wave = 0; wave < kWaves; ++wave) {
      multiply_128(part, a + role.wave_row(wave) * kLine, b, role);
      hopper::wait_for_products<0>();
      hopper::pin(part);
      if (!C::kColumnScales && wave == kWaves - 1) release(s, place.stage, role);
      promote<C::kColumnScales>(sum[wave], part, scales.row[2 * wave] * scales.col,
                                scales.row[2 * wave + 1] * scales.col, s.scale_b[C::kColumnScales ? place.stage : 0],
                                role.lane);
    }
    if (C::kColumnScales) release(s, place.stage, role);
  }
  store_wave(p, t, role, sum[0], 0, role.staged(s));
  if constexpr (kWaves == 2) store_wave(p, t, role, sum[1], 1, role.staged(s));
}

/// Zeroes what a stage holds beyond the expert's last token: lines of k from `count` on.
template <class C>
__device__ __forceinline__ void clear_tail(Shared<C>& s, int stage, int count, const Role& role) {
  const auto clear = [&](uint8_t* lines, int rows) {
    const int lines_per_part = C::kDepth - count;
    for (int i = static_cast<int>(threadIdx.x) % kWarpgroup; i < rows / kWave * lines_per_part * kLine / 16;
         i += kWarpgroup) {
      const int line = i / (kLine / 16), part = line / lines_per_part;
      uint8_t* at = lines + part * kWave * kLine + (count + line % lines_per_part) * kLine + i % (kLine / 16) * 16;
      *reinterpret_cast<uint4*>(at) = make_uint4(0, 0, 0, 0);
    }
  };
  for (int wave = 0; wave < C::kWaves; ++wave) clear(s.a[stage] + role.wave_row(wave) * kLine, kWave);
  clear(s.b[stage], kCols);  // the other warpgroup writes the same zeros
  hopper::publish_to_engines();
  hopper::synchronize_some(1 + role.group, kWarpgroup);
}

/// All of k of a tile of bf16.
template <class C, int kWaves>
__device__ __forceinline__ void multiply_halves(Sums (&sum)[C::kWaves], const Product& p, const Tile& t,
                                                const Role& role, Shared<C>& s, Place<C::kStages>& place) {
  // 16 of k: 32 bytes of each line, or 16 lines.
  constexpr uint32_t kStepA = C::kAlongA ? 32 : 16 * kLine, kStepB = C::kAlongB ? 32 : 16 * kLine;
  constexpr uint32_t kLead = kWave * kLine;
  int before = -1;
#pragma unroll
  for (int wave = 0; wave < kWaves; ++wave) hopper::pin(sum[wave]);
  for (int step = 0; step < steps<C>(t); ++step, place.advance()) {
    hopper::wait_for(&s.full[place.stage], place.parity);
    if constexpr (!C::kAlongA) {
      const int count = t.depth - step * C::kDepth;
      if (count < C::kDepth) clear_tail(s, place.stage, count, role);
    }
    const uint32_t a = hopper::shared_address(s.a[place.stage]), b = hopper::shared_address(s.b[place.stage]);
    hopper::begin_products();
#pragma unroll
    for (int wave = 0; wave < kWaves; ++wave)
#pragma unroll
      for (int k = 0; k < C::kDepth / 16; ++k)
        hopper::multiply_bf16<!C::kAlongA, !C::kAlongB>(
            sum[wave], hopper::side(a + role.wave_row(wave) * kLine + k * kStepA, kLead),
            hopper::side(b + k * kStepB, kLead), step > 0 || k > 0);
    hopper::commit_products();
    hopper::wait_for_products<1>();
    if (before >= 0) release(s, before, role);
    before = place.stage;
  }
  hopper::wait_for_products<0>();
#pragma unroll
  for (int wave = 0; wave < kWaves; ++wave) hopper::pin(sum[wave]);
  release(s, before, role);
  // Not a loop: the compiler would not unroll it and would keep the sums in memory.
  store_wave(p, t, role, sum[0], 0, role.staged(s));
  if constexpr (kWaves == 2) store_wave(p, t, role, sum[1], 1, role.staged(s));
}

/// The first kWaves waves of a tile.
template <class C, int kWaves>
__device__ __forceinline__ void multiply_tile(Sums (&sum)[C::kWaves], const Product& p, const Tile& t, const Role& role,
                                              Shared<C>& s, Place<C::kStages>& place) {
  if constexpr (C::kIsFp8)
    multiply_codes<C, kWaves>(sum, p, t, role, s, place);
  else
    multiply_halves<C, kWaves>(sum, p, t, role, s, place);
}

/// A warpgroup: its waves of all tiles of the block.
template <class C>
__device__ __forceinline__ void multiply(const Product& p, Shared<C>& s) {
  const Role role;
  Tiles<C> tiles(p);
  Place<C::kStages> place;
  if (C::kIsFp8 && role.group == 1) hopper::arrive_at_some(kTurn, kMultipliers * kWarpgroup);
  for (Tile t; tiles.next(t);) {
    Sums sum[C::kWaves];
    if constexpr (C::kIsFp8) {
#pragma unroll
      for (Sums& wave : sum)
#pragma unroll
        for (float& v : wave) v = 0;
    }
    // The same for both warpgroups: they take turns.
    if (C::kWaves == 1 || t.row + kMultipliers * kWave < t.row_end)
      multiply_tile<C, C::kWaves>(sum, p, t, role, s, place);
    else
      multiply_tile<C, 1>(sum, p, t, role, s, place);
  }
  hopper::wait_for_reads_of_stores<0>();
}

template <class C>
__global__ __launch_bounds__(kThreads, 1) void wgmma_product(const __grid_constant__ Product p,
                                                             const __grid_constant__ CUtensorMap map_a,
                                                             const __grid_constant__ CUtensorMap map_b) {
  extern __shared__ __align__(kAlignment) uint8_t memory[];
  Shared<C>& s = *reinterpret_cast<Shared<C>*>(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < C::kStages; ++stage) {
      hopper::init_barrier(&s.full[stage], 1);
      hopper::init_barrier(&s.empty[stage], C::kCluster * kMultipliers * kWarpgroup / 32);
    }
    hopper::publish_barriers();
    hopper::prefetch_map(map_a);
    hopper::prefetch_map(map_b);
  }
  __syncthreads();
  if (C::kCluster > 1) hopper::synchronize_cluster();
  if (threadIdx.x >= kMultipliers * kWarpgroup) {
    hopper::give_up_registers<40>();
    if (threadIdx.x == kMultipliers * kWarpgroup) feed<C>(p, s, map_a, map_b);
  } else {
    hopper::take_registers<232>();
    multiply<C>(p, s);
  }
  // The other block may still send to this one, or wait for its stages.
  if (C::kCluster > 1) {
    __syncwarp();
    hopper::synchronize_cluster();
  }
}

/// One side as the copy engine sees it, `rows` rows of it at once.
MatrixStack stack_of(const Product& p, const Operand& o, int64_t outputs, int64_t depth, int element_bytes, int rows) {
  MatrixStack m;
  m.data = o.data;
  m.element_bytes = element_bytes;
  m.length = o.along_k ? depth : outputs;
  m.lines = o.along_k ? outputs : depth;
  m.pitch = o.ld * element_bytes;
  m.step = m.lines * m.pitch;
  m.box_lines = o.along_k ? rows : kLine / element_bytes;
  if (o.data) return m;
  m.data = p.bank.data[0];
  m.count = p.experts;
  if (p.experts > 1) m.step = static_cast<char*>(p.bank.data[1]) - static_cast<char*>(p.bank.data[0]);
  return m;
}

bool are_equally_spaced(const Product& p) {
  const auto at = [&](int64_t e) { return static_cast<const char*>(p.bank.data[e]); };
  for (int64_t e = 2; e < p.experts; ++e)
    if (at(e) - at(e - 1) != at(1) - at(0)) return false;
  return true;
}

template <class C>
struct Maps {
  MatrixStack a, b;
  explicit Maps(const Product& p)
      : a(stack_of(p, p.a, p.M, p.K, sizeof(typename C::Element), C::kRows / C::kCluster)),
        b(stack_of(p, p.b, p.N, p.K, sizeof(typename C::Element), kCols)) {
    if (p.in_groups) a.length = b.length = (p.K / kGroup + p.experts) * kGroup;
  }
};

template <class C>
void launch(cudaStream_t stream, const Product& p) {
  const Maps<C> maps(p);
  if (C::kColumnScales)
    check(reinterpret_cast<uintptr_t>(p.b.scale) % 16 == 0 && p.b.inner % 4 == 0,
          "FP8 product over tokens: expected scales at multiples of 16 bytes");
  int device, processors;
  check_cuda(cudaGetDevice(&device), "the current GPU");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "its size");
  constexpr size_t kMemory = sizeof(Shared<C>);
  static_assert(kMemory <= 227 * 1024);
  check_cuda(cudaFuncSetAttribute(wgmma_product<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMemory),
             "shared memory of a product");
  const int64_t row_tiles = p.by_depth     ? p.experts * blocks(p.M, C::kRows)
                            : p.offsets_E1 ? p.M / C::kRows + p.experts
                                           : blocks(p.M, C::kRows);
  const int64_t clusters = std::min<int64_t>(processors / C::kCluster, row_tiles * blocks(p.N, kCols * C::kCluster));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {C::kCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * C::kCluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kMemory;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, wgmma_product<C>, p, tensor_map(maps.a), tensor_map(maps.b)), "a product");
}

/// What does not depend on the number of rows: whether the copy engine and the stores of eight columns take it.
template <class C>
bool is_for(const Product& p) {
  const Maps<C> maps(p);
  if (!has_tensor_map(maps.a) || !has_tensor_map(maps.b) || (!p.b.data && !are_equally_spaced(p))) return false;
  const auto is_output = [&](const void* y) { return reinterpret_cast<uintptr_t>(y) % 16 == 0; };
  bool is_aligned = p.N % kVector == 0 && p.ldy % kVector == 0 && is_output(p.y);
  for (int64_t e = 0; !p.y && e < p.experts; ++e) is_aligned &= is_output(p.bank.data[e]);
  return is_aligned;
}

template <class E, bool kAlongA, bool kAlongB, bool kColumnScales = false>
bool product_of(cudaStream_t s, const Product& p) {
  using Large = Config<E, 2, 2, kAlongA, kAlongB, kColumnScales>;
  using Small = Config<E, 1, 2, kAlongA, kAlongB, kColumnScales>;
  if (!is_for<Large>(p)) return false;
  const int64_t rows_each = p.by_depth ? p.M : p.M / p.experts;
  rows_each > Small::kRows ? launch<Large>(s, p) : launch<Small>(s, p);
  return true;
}

}  // namespace

bool wgmma_bf16_product(cudaStream_t s, const Product& p) {
  if (p.a.along_k && p.b.along_k) return product_of<half_t, true, true>(s, p);
  return p.a.along_k ? product_of<half_t, true, false>(s, p) : product_of<half_t, false, false>(s, p);
}

bool wgmma_fp8_product(cudaStream_t s, const Product& p) {
  return p.by_depth ? product_of<uint8_t, true, true, true>(s, p) : product_of<uint8_t, true, true>(s, p);
}

}  // namespace sluice::cuda
