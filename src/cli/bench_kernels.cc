// sluice bench gemm, attention, elementwise, kernels: what the GPU's kernels of training reach by themselves, beside
// the vendor's library and a copy in the same run. With --json a file of measurements for `sluice plan`.
#include <memory>
#include <vector>

#include "base/arena.h"
#include "base/error.h"
#include "base/op_times.h"
#include "base/rng.h"
#include "base/transfer.h"
#include "cli/bench.h"
#include "formats/json_lines.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/optim.h"
#include "ops/product_time.h"
#include "ops/quant.h"
#include "ops/swiglu.h"

namespace sluice {
namespace {

struct Options {
  std::string device = "cuda";
  int64_t rows = 4096, runs = 20;
  bool json = false;
};

/// Lines for people, or objects for the file.
class Report {
 public:
  explicit Report(bool json) : json_(json) {}
  void add(const JsonObject& object, const std::string& line) {
    if (json_)
      objects_.push_back(object.str());
    else
      fmt::print("{}\n", line);
  }
  void finish(const Stream& s, const Options& o) const {
    if (!json_) return;
    std::string description;
    append_json(description,
                fmt::format("sluice bench kernels: medians of {} calls, products and their library in turn. "
                            "flops: of the kernel that training calls (cuBLASLt for dense bf16).",
                            o.runs));
    fmt::print("{{\"description\": {}, \"device\": \"{}\", \"measurements\": [\n", description,
               device_text(s.device()));
    for (size_t i = 0; i < objects_.size(); ++i) fmt::print("{}{}\n", objects_[i], i + 1 < objects_.size() ? "," : "");
    fmt::print("]}}\n");
  }

 private:
  bool json_;
  std::vector<std::string> objects_;
};

// Products of the layers of V3 671B (widths 7168, 1536, 512, 2048, 128 heads) and of v3-4b, forward; the gradient of an
// input is a forward product with outputs and inputs exchanged.
std::vector<ProductCase> product_cases(int64_t rows) {
  std::vector<ProductCase> cases;
  const auto add = [&](bool is_fp8, int64_t outputs, int64_t inputs, int64_t experts = 1, int64_t rows_each = 0) {
    for (const bool is_gradient : {false, true})
      cases.push_back({is_fp8, is_gradient, experts > 1 ? experts * rows_each : rows, outputs, inputs, experts});
  };
  for (const bool is_fp8 : {true, false}) {
    cases.push_back({is_fp8, false, 8192, 8192, 8192});
    for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{4096, 7168}, {7168, 2048}, {24576, 1536}})
      add(is_fp8, outputs, inputs);
    for (const int64_t outputs : {4096, 2048}) add(is_fp8, outputs, 7168, 8, 4096);
    add(is_fp8, 7168, 2048, 8, 4096);
    add(is_fp8, 1536, 2048, 64, 1024);
    add(is_fp8, 2048, 768, 64, 1024);
  }
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{1536, 7168},
                                        {576, 7168},
                                        {32768, 512},
                                        {7168, 16384},
                                        {7168, 1536},
                                        {1536, 24576},
                                        {512, 32768},
                                        {16384, 7168}})
    add(true, outputs, inputs);
  add(false, 129280, 7168);
  add(false, 7168, 129280);
  add(false, 256, 7168);
  return cases;
}

std::string name_of(const ProductCase& c) {
  return fmt::format("{} {}{} {} x {} x {}", c.is_fp8 ? "fp8 " : "bf16", c.experts > 1 ? "grouped " : "",
                     c.is_gradient ? "weight gradient" : "product",
                     c.experts > 1 ? fmt::format("{} x {}", c.experts, c.rows / c.experts) : fmt::format("{}", c.rows),
                     c.outputs, c.inputs);
}

void bench_gemm(Stream& s, const Options& o, Report& report) {
  double roof = 0;  // the library's speed on the last large square
  for (const ProductCase& c : product_cases(o.rows)) {
    const ProductTime t = product_time(s, c, o.runs);
    const double ours = c.flops() / t.ours, library = t.library > 0 ? c.flops() / t.library : 0;
    if (c.rows == c.outputs && c.rows == c.inputs) roof = std::max(ours, library);
    JsonObject j;
    j.add("test", c.experts > 1 ? "grouped" : "product").add("type", c.is_fp8 ? "fp8" : "bf16");
    j.add("pass", c.is_gradient ? "weight" : "forward").add("rows", c.rows).add("experts", c.experts);
    j.add("outputs", c.outputs).add("inputs", c.inputs).add("kernel_flops", ours).add("library_flops", library);
    j.add("flops", !c.is_fp8 && c.experts == 1 && library > 0 ? library : ours);
    report.add(
        j,
        fmt::format(
            "{:<52} {:7.1f} TFLOP/s, {:5.1f}% of {:.0f}{}", name_of(c), ours * 1e-12, 100 * ours / roof, roof * 1e-12,
            library > 0 ? fmt::format("; cuBLASLt {:.1f}, ratio {:.2f}", library * 1e-12, ours / library) : ""));
  }
}

/// Median seconds of the ops that `queue_ops` queues.
template <class F>
double op_seconds(Stream& s, int64_t runs, F&& queue_ops) {
  std::vector<double> seconds;
  for (int64_t i = -2; i < runs; ++i) {
    OpTimes times;
    s.set_times(&times);
    queue_ops();
    s.set_times(nullptr);
    double sum = 0;
    for (const OpTimes::Kind& k : times.kinds(s)) sum += k.seconds;
    if (i >= 0) seconds.push_back(sum);
  }
  return median(seconds);
}

/// A tensor of about normal bf16 numbers: as many as fit into a MiB, again and again.
Tensor random_tensor(Stream& s, Arena& a, int64_t rows, int64_t cols) {
  constexpr int64_t kNumbers = int64_t{1} << 19;
  static const std::vector<bf16> numbers = [] {
    Rng rng(1);
    std::vector<bf16> v;
    for (int64_t i = 0; i < kNumbers; ++i) v.push_back(bf16(static_cast<float>(rng.normal())));
    return v;
  }();
  const Tensor t = a.alloc(DType::bf16, {rows, cols});
  for (int64_t i = 0; i < t.size(); i += kNumbers) {
    const int64_t n = std::min(kNumbers, t.size() - i);
    upload(s, Tensor(t.ptr<bf16>() + i, DType::bf16, {n}), Tensor(const_cast<bf16*>(numbers.data()), DType::bf16, {n}));
  }
  return t;
}

void bench_attention_of(Stream& s, const Options& o, Report& report, const AttentionShape& a) {
  const int64_t T = a.batch * a.tokens, q = a.nope + a.rope;
  Arena arena(static_cast<size_t>(T * a.heads * (2 * q + 2 * (a.nope + a.value) + 2 * a.value + 2) * 2 + T * 64 * 4) +
                  (size_t{1} << 20),
              s.device());
  const AttentionInputs in{random_tensor(s, arena, T, a.heads * q),
                           random_tensor(s, arena, T, a.heads * (a.nope + a.value)),
                           random_tensor(s, arena, T, a.rope),
                           {}};
  const Tensor out = arena.alloc(DType::bf16, {T, a.heads * a.value}), lse = arena.f32(T, a.heads);
  const Tensor d_o = random_tensor(s, arena, T, a.heads * a.value);
  const AttentionInputs grad{arena.alloc(DType::bf16, {T, in.q.cols()}),
                             arena.alloc(DType::bf16, {T, in.kv.cols()}),
                             arena.alloc(DType::bf16, {T, a.rope}),
                             {}};
  const double forward = op_seconds(s, o.runs, [&] { attention_forward(s, out, lse, in, a); });
  const double backward = op_seconds(s, o.runs, [&] { attention_backward_input(s, grad, d_o, in, out, lse, a); });
  // Forward 2 products, backward 5, each half because of the mask.
  const double pairs = static_cast<double>(T * a.heads) * static_cast<double>(a.tokens + 1) / 2;
  const double once = 2 * pairs * static_cast<double>(q + a.value);
  const double back = 2 * pairs * static_cast<double>(3 * q + 2 * a.value);
  for (const auto& [pass, flops] : {std::pair{"forward", once / forward}, {"backward", back / backward}}) {
    JsonObject j;
    j.add("test", "attention").add("type", "bf16").add("pass", pass).add("heads", a.heads).add("tokens", a.tokens);
    j.add("flops", flops);
    report.add(j, fmt::format("attention {} x {} tokens, {} heads of {}/{}, {}: {:.1f} TFLOP/s", a.batch, a.tokens,
                              a.heads, q, a.value, pass, flops * 1e-12));
  }
  if (!o.json)
    fmt::print("attention {} x {} tokens, {} heads, both: {:.1f} TFLOP/s\n", a.batch, a.tokens, a.heads,
               (once + back) / (forward + backward) * 1e-12);
}

void bench_attention(Stream& s, const Options& o, Report& report) {
  const auto of = [&](int64_t batch, int64_t tokens, int64_t heads) {
    bench_attention_of(s, o, report, {batch, tokens, heads, 128, 64, 128, 0.07f});
  };
  of(1, 4096, 128);
  of(2, 4096, 16);
  of(1, 16384, 16);
}

void bench_elementwise(Stream& s, const Options& o, Report& report) {
  const int64_t T = 16384, D = 7168, n = T * D;
  Arena arena(static_cast<size_t>(n) * 16 + (size_t{64} << 20), s.device());
  const Tensor x = random_tensor(s, arena, T, D), y = random_tensor(s, arena, T, D), z = random_tensor(s, arena, T, D);
  const Tensor v = arena.alloc(DType::bf16, {T, D}), u = arena.alloc(DType::bf16, {T, D});
  const Tensor w = random_tensor(s, arena, 1, D), r = arena.alloc(DType::f32, {T}), dw = arena.f32(1, D);
  const Tensor code = arena.alloc(DType::f8_e4m3, {T, D}), scale = arena.f32(T, D / 128);
  double copied = 0;
  const auto time = [&](const char* test, const char* name, double bytes_each, auto&& ops) {
    const double rate = bytes_each * static_cast<double>(n) / op_seconds(s, o.runs, ops);
    if (copied == 0) copied = rate;
    JsonObject j;
    j.add("test", test).add("name", name).add("bytes_per_second", rate);
    report.add(j, fmt::format("{:<24} {:7.0f} GB/s, {:5.1f}% of a copy", name, rate * 1e-9, 100 * rate / copied));
  };
  time("elementwise", "copy", 4, [&] { copy(s, v, x); });
  time("elementwise", "add", 6, [&] { add(s, v, x, y); });
  time("elementwise", "rmsnorm", 4, [&] { rmsnorm_forward(s, v, r, x, w, 1e-6f); });
  time("elementwise", "rmsnorm of gradients", 6, [&] { rmsnorm_backward_input(s, v, y, x, w, r); });
  time("elementwise", "rmsnorm of the gain", 4, [&] { rmsnorm_backward_weight(s, dw, y, x, r); });
  time("elementwise", "swiglu", 6, [&] { swiglu_forward(s, v, x, y); });
  time("elementwise", "swiglu of gradients", 10, [&] { swiglu_backward(s, v, u, z, x, y); });
  time("elementwise", "quantize rows", 3, [&] { quantize_rows(s, code, scale, x, true); });
  const auto part = [&](DType dtype) { return arena.alloc(dtype, {T / 4, D}); };
  const AdamWTensor t{part(DType::f32), part(DType::bf16), part(DType::bf16), part(DType::f32),
                      as_matrix(part(DType::bf16))};
  zero(s, t.w), zero(s, t.m), zero(s, t.v), zero(s, t.g);
  time("optimizer", "adamw", 26.0 / 4, [&] { adamw_step(s, {&t, 1}, {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1}); });
}

using Bench = void (*)(Stream&, const Options&, Report&);

void add_command(CLI::App& bench, const char* name, const char* help, std::vector<Bench> parts) {
  auto o = std::make_shared<Options>();
  CLI::App* c = bench.add_subcommand(name, help);
  c->add_option("--device", o->device, "cuda or cuda:N")->capture_default_str();
  c->add_option("--rows", o->rows, "rows of dense products")
      ->check(CLI::Range(int64_t{128}, int64_t{1} << 17))
      ->capture_default_str();
  c->add_option("--runs", o->runs, "calls of each")->check(CLI::Range(1, 1000))->capture_default_str();
  c->add_flag("--json", o->json, "a file of measurements for sluice plan");
  c->footer(fmt::format("Example: sluice bench {} --json", name));
  c->callback([o, parts] {
    const Device device = parse_device(o->device);
    if (!device.is_cuda()) fail("device: expected a GPU, found {}", o->device);
    Stream s(device, 1);
    Report report(o->json);
    for (const Bench part : parts) part(s, *o, report);
    report.finish(s, *o);
  });
}

}  // namespace

void add_bench_kernel_commands(CLI::App& bench) {
  add_command(bench, "gemm", "Matrix products of training on a GPU", {bench_gemm});
  add_command(bench, "attention", "Attention of training on a GPU", {bench_attention});
  add_command(bench, "elementwise", "What moves memory on a GPU", {bench_elementwise});
  add_command(bench, "kernels", "gemm, attention and elementwise", {bench_gemm, bench_attention, bench_elementwise});
}

}  // namespace sluice
