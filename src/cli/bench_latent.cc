// sluice bench latent: decoding attention over the latent cache by itself (ops/infer.h), without a model, on a GPU.
#include <numeric>
#include <vector>

#include "base/arena.h"
#include "base/recording.h"
#include "base/rng.h"
#include "base/transfer.h"
#include "cli/bench.h"
#include "ops/elementwise.h"
#include "ops/infer.h"

namespace sluice {
namespace {

struct Options {
  int64_t heads = 128, batch = 128, depth = 4096, queries = 1, runs = 20;
  std::string device = "cuda";
};

/// Calls between two waits for the GPU: a wait costs as much as a short call.
constexpr int kCalls = 10;

/// Seconds of one call, median of `runs`.
double seconds_of_call(Stream& s, int64_t runs, const std::function<void()>& call) {
  call();
  const Recording calls(s, [&] {
    for (int i = 0; i < kCalls; ++i) call();
  });
  std::vector<double> seconds;
  for (int64_t i = -2; i < runs; ++i) {  // the first ones warm up
    const double one = seconds_of([&] {
      calls.replay(s);
      s.synchronize();
    });
    if (i >= 0) seconds.push_back(one / kCalls);
  }
  return median(seconds);
}

/// Bytes per second that a copy reads and writes.
double copy_rate(Stream& s, int64_t runs) {
  constexpr int64_t kElements = int64_t{1} << 28;
  Arena memory(2 * kElements * sizeof(float) + 128, s.device());
  const Tensor from = memory.f32(1 << 14, kElements >> 14), to = memory.f32(1 << 14, kElements >> 14);
  return 2.0 * static_cast<double>(kElements) * sizeof(float) / seconds_of_call(s, runs, [&] { copy(s, to, from); });
}

void fill(Stream& s, const Tensor& t, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> row(static_cast<size_t>(t.cols()) * 64);  // distinct rows enough for values that do not matter
  for (float& v : row) v = static_cast<float>(rng.normal());
  std::vector<bf16> rounded(row.begin(), row.end());
  for (int64_t i = 0; i < t.rows(); i += 64) {
    const int64_t n = std::min<int64_t>(64, t.rows() - i);
    upload(
        s, t.slice_rows(i, n),
        t.dtype == DType::f32 ? Tensor(row.data(), {n, t.cols()}) : Tensor(rounded.data(), DType::bf16, {n, t.cols()}));
  }
}

Tensor table(Stream& s, Arena& a, const std::vector<int32_t>& values, std::initializer_list<int64_t> dims) {
  std::vector<int32_t> host = values;
  const Tensor t = a.alloc(DType::i32, dims);
  upload(s, t, Tensor(host.data(), DType::i32, dims));
  return t;
}

/// Every sequence has pages of its own; its last tokens are the queries.
void bench_latent(const Options& o) {
  const Device device = parse_device(o.device);
  if (!device.is_cuda()) fail("--device: expected a GPU, found {}", o.device);
  if (const std::string why = why_unusable(device); !why.empty()) fail("device {}: {}", device_text(device), why);
  Stream s(device, 1);
  const LatentShape a{o.heads, 128, 64, 128, 512, 0.1f};
  const int64_t T = o.batch * o.queries, pages = (o.depth + kPageTokens - 1) / kPageTokens;
  Arena memory(static_cast<size_t>(o.batch * pages * kPageTokens * a.row() * 2 +
                                   T * o.heads * (a.row() + a.latent) * 4 + (2 * T + o.batch * pages) * 4 + 1024),
               device);
  const Tensor cache = memory.alloc(DType::bf16, {o.batch * pages * kPageTokens, a.row()});
  const Tensor qa = memory.f32(T, o.heads * a.row()), u = memory.f32(T, o.heads * a.latent);
  fill(s, cache, 1);
  fill(s, qa, 2);
  std::vector<int32_t> position, sequence, page(static_cast<size_t>(o.batch * pages));
  std::iota(page.begin(), page.end(), 0);
  for (int64_t t = 0; t < T; ++t) {
    position.push_back(static_cast<int32_t>(o.depth - o.queries + t % o.queries));
    sequence.push_back(static_cast<int32_t>(t / o.queries));
  }
  const CachePlaces places{table(s, memory, position, {T}), table(s, memory, sequence, {T}),
                           table(s, memory, page, {o.batch, pages})};
  const double seconds = seconds_of_call(s, o.runs, [&] { infer_attention(s, u, qa, cache, places, a); });
  const double operations = 2.0 * static_cast<double>(T * o.depth * o.heads * (a.row() + a.latent));
  const double bytes = static_cast<double>(o.batch * o.depth * a.row()) * 2;
  const double copied = copy_rate(s, o.runs);
  fmt::print("latent attention, batch {}, {} tokens, {} heads, {} queries, {}: {:.1f} us\n", o.batch, o.depth, o.heads,
             o.queries, device_text(device), seconds * 1e6);
  fmt::print("  {:.1f} TFLOP/s; reads {:.0f} GB/s of cache, {:.0f}% of the {:.0f} GB/s that a copy moves\n",
             operations / seconds * 1e-12, bytes / seconds * 1e-9, 100 * bytes / seconds / copied, copied * 1e-9);
}

}  // namespace

void add_bench_latent_command(CLI::App& bench) {
  auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand("latent", "Decoding attention over the latent cache, 512 + 64 columns, on a GPU");
  const auto count = [&](const char* name, int64_t& value, const char* help, int64_t most) {
    c->add_option(name, value, help)->check(CLI::Range(int64_t{1}, most))->capture_default_str();
  };
  count("--heads", o->heads, "query heads", 1024);
  count("--batch", o->batch, "sequences", 4096);
  count("--depth", o->depth, "tokens of a sequence in the cache, its queries included", int64_t{1} << 20);
  count("--queries", o->queries, "tokens of a sequence that attend", 64);
  count("--runs", o->runs, "measurements", 1000);
  c->add_option("--device", o->device, "cuda or cuda:N")->capture_default_str();
  c->footer("Example: sluice bench latent --heads 16 --batch 128 --depth 4096");
  c->callback([o] { bench_latent(*o); });
}

}  // namespace sluice
