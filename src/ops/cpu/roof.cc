#include "ops/roof.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/arena.h"

// As ops/cpu/packed_block.cc, whose instructions are timed here.
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#define HWY_WANT_AVX3_DL 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/roof.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "ops/cpu/dot_i8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace sluice::cpu::HWY_NAMESPACE {

constexpr int kChains = 12;  // enough to hide the latency of a multiply-add on two units

/// Reads `bytes` (a multiple of 512) and returns a value that depends on all of them.
uint64_t read_all(const uint64_t* p, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  const size_t L = hn::Lanes(d), n = bytes / sizeof(uint64_t);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (size_t i = 0; i + 4 * L <= n; i += 4 * L) {
    a = hn::Xor(a, hn::Load(d, p + i)), b = hn::Xor(b, hn::Load(d, p + i + L));
    c = hn::Xor(c, hn::Load(d, p + i + 2 * L)), e = hn::Xor(e, hn::Load(d, p + i + 3 * L));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

/// `rounds` times kChains products; returns operations done.
double multiply_codes(int64_t rounds, int32_t* out) {
  HWY_ALIGN Code x[4 * kChains] = {1, 2, 3};
  HWY_ALIGN std::byte codes[HWY_MAX_BYTES] = {};
  VI sum[kChains];
  HWY_UNROLL(12)
  for (int i = 0; i < kChains; ++i) sum[i] = hn::Zero(I32());
  const Weights w = spread(load_codes(codes));
  for (int64_t r = 0; r < rounds; ++r) {
    HWY_UNROLL(12)
    for (int i = 0; i < kChains; ++i) sum[i] = dot(sum[i], w, x + 4 * i);
    asm volatile("" ::: "memory");
  }
  HWY_UNROLL(12)
  for (int i = 1; i < kChains; ++i) sum[0] = hn::Add(sum[0], sum[i]);
  *out = hn::GetLane(sum[0]);
  return static_cast<double>(rounds) * kChains * 8.0 * static_cast<double>(hn::Lanes(I32()));
}

double multiply_floats(int64_t rounds, float* out) {
  const hn::ScalableTag<float> d;
  hn::Vec<hn::ScalableTag<float>> sum[kChains];
  HWY_UNROLL(12)
  for (int i = 0; i < kChains; ++i) sum[i] = hn::Zero(d);
  float factor[2] = {1.0f, 0.5f};
  asm volatile("" : "+m"(factor));
  const auto a = hn::Set(d, factor[0]), b = hn::Set(d, factor[1]);
  for (int64_t r = 0; r < rounds; ++r) {
    HWY_UNROLL(12)
    for (int i = 0; i < kChains; ++i) sum[i] = hn::MulAdd(a, b, sum[i]);
    asm volatile("" ::: "memory");
  }
  HWY_UNROLL(12)
  for (int i = 1; i < kChains; ++i) sum[0] = hn::Add(sum[0], sum[i]);
  *out = hn::GetLane(sum[0]);
  return static_cast<double>(rounds) * kChains * 2.0 * static_cast<double>(hn::Lanes(d));
}

}  // namespace sluice::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sluice {
namespace cpu {

HWY_EXPORT(read_all);
HWY_EXPORT(multiply_codes);
HWY_EXPORT(multiply_floats);

// Here, because a build for one target alone (HWY_COMPILE_ONLY_STATIC) takes no qualified names.
uint64_t read_all_words(const uint64_t* words, size_t bytes) { return HWY_DYNAMIC_DISPATCH(read_all)(words, bytes); }
double multiply_many_codes(int32_t* out) { return HWY_DYNAMIC_DISPATCH(multiply_codes)(2000000, out); }
double multiply_many_floats(float* out) { return HWY_DYNAMIC_DISPATCH(multiply_floats)(2000000, out); }

}  // namespace cpu
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 5;

/// The best rate of `work` on all threads at once, which returns what one thread did.
template <class F>
double best_rate(Stream& s, F&& work) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    double done[1024] = {};
    const auto start = Clock::now();
    s.pool().run(s.threads(), [&](int64_t i, int) { done[i % 1024] += work(i); });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    double total = 0;
    for (const double d : done) total += d;
    best = std::max(best, total / seconds);
  }
  return best;
}

}  // namespace

double read_bandwidth(Stream& s, size_t bytes) {
  const size_t each = bytes / static_cast<size_t>(s.threads()) / 4096 * 4096;
  Arena arena(each * static_cast<size_t>(s.threads()));  // in huge pages, as weights are
  const auto part =
      [&, memory = static_cast<char*>(arena.alloc(DType::u8, {static_cast<int64_t>(each) * s.threads()}).data)](
          int64_t i) { return memory + static_cast<size_t>(i) * each; };
  s.pool().run(s.threads(), [&](int64_t i, int) { std::memset(part(i), 1, each); });
  std::atomic<uint64_t> sink{0};
  return best_rate(s, [&](int64_t i) {
    sink += cpu::read_all_words(reinterpret_cast<const uint64_t*>(part(i)), each);
    return static_cast<double>(each);
  });
}

double code_rate(Stream& s) {
  return best_rate(s, [](int64_t) {
    int32_t out;
    return cpu::multiply_many_codes(&out);
  });
}

double float_rate(Stream& s) {
  return best_rate(s, [](int64_t) {
    float out;
    return cpu::multiply_many_floats(&out);
  });
}

}  // namespace sluice
#endif
