#include "ops/linear.h"

#include "ops/cuda/fp8.cuh"
#include "ops/cuda/gemm_library.h"
#include "ops/cuda/product.h"
#include "ops/cuda/quant.h"
#include "ops/elementwise.h"

namespace sluice::cuda {
namespace {

/// Experts and their rows; a dense product has one expert and no offsets.
struct Group {
  const int32_t* offsets_E1 = nullptr;
  ExpertBank matrices;
};

Group dense(const Matrix& w) { return {nullptr, ExpertBank(&w, 1)}; }

Group grouped(const Tensor& offsets, ExpertBank w) {
  check(static_cast<int64_t>(w.size()) <= kMaxExperts, "grouped_linear: expected at most 512 experts");
  return {offsets.ptr<int32_t>(), w};
}

bool is_aligned(const void* data, int64_t ld, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(kVector * element_bytes) == 0 && ld % kVector == 0;
}

Operand operand(const Tensor& t, bool along_k) {
  Operand o;
  o.data = t.data;
  o.ld = t.ld;
  o.along_k = along_k;
  o.is_f32 = t.dtype == DType::f32;
  o.is_vector = is_aligned(t.data, t.ld, 2);
  return o;
}

/// Codes (rows, cols) with scales as `layout` has them.
Operand coded(const Codes& c, int64_t cols, const Operand& layout) {
  Operand o = layout;
  o.data = c.code;
  o.ld = cols;
  o.scale = c.scale;
  o.is_vector = is_aligned(c.code, cols, 1);
  return o;
}

/// The matrices of the experts as the right side: along k in the forward product.
Operand matrices(ExpertBank w, bool along_k) {
  Operand o;
  o.ld = w[0].cols;
  o.along_k = along_k;
  o.is_f32 = w[0].format == Format::f32;
  o.group = kGroup;
  o.outer = along_k ? w[0].scale_cols() : 1;
  o.inner = along_k ? 1 : w[0].scale_cols();
  for (const Matrix& m : w) o.is_vector &= is_aligned(m.data, m.cols, m.format == Format::fp8_128 ? 1 : 2);
  return o;
}

void set_group(Product& p, const Group& g) {
  p.offsets_E1 = g.offsets_E1;
  p.experts = static_cast<int64_t>(g.matrices.size());
  for (size_t e = 0; e < g.matrices.size(); ++e) {
    p.bank.data[e] = g.matrices[e].data;
    p.bank.scales[e] = g.matrices[e].scales;
  }
}

void set_output(Product& p, const Tensor& y, Out out) {
  p.y = y.data;
  p.ldy = y.ld;
  p.y_is_f32 = y.dtype == DType::f32;
  p.add = out == Out::add;
  p.M = y.rows();
  p.N = y.cols();
}

constexpr int kParts = 3;

/// y (=|+=) sums, rounded once, as `p` wants it.
__global__ void round_sums(Rows<half_t> y, const float* sums, int64_t n, int64_t cols, bool add) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    const float v = sums[row * cols + i];
    store(y[row] + i, add ? load(y[row] + i) + v : v);
  }
}

void store_sums(Queue& queue, const Product& p, const float* sums) {
  const RowLaunch l(p.M, p.N);
  round_sums<<<l.grid, l.block, 0, queue.stream()>>>({static_cast<half_t*>(p.y), p.ldy}, sums, p.M, p.N, p.add);
  check_launch("rounding sums");
}

/// A product without FP8 and of one type on both sides.
void plain_product(Queue& queue, const Product& p, void* workspace) {
  if (library_product(queue, p, workspace)) return;
  p.a.is_f32 ? f32_product(queue.stream(), p) : bf16_product(queue.stream(), p);
}

/// plane[i] (n, cols), rows `ld` apart: bf16 numbers that add up to x exactly, each the first 8 bits of what is left.
__global__ void split(half_t* plane, Rows<const float> x, int64_t n, int64_t cols, int64_t ld) {
  const int64_t row = launch_row();
  if (row >= n) return;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
    float rest = x[row][i];
    const bool is_finite = isfinite(rest);
    for (int part = 0; part < kParts; ++part) {
      const half_t first = __float2bfloat16_rz(rest);
      plane[(part * n + row) * ld + i] = first;
      rest = is_finite ? rest - __bfloat162float(first) : 0.0f;
    }
  }
}

/// A float32 matrix (n, cols) that is one side of a product, as bf16 parts.
struct Parts {
  half_t* plane;
  int64_t n, cols;
  int64_t ld() const { return (cols + kVector - 1) / kVector * kVector; }
  size_t bytes() const { return static_cast<size_t>(kParts * n * ld()) * sizeof(half_t); }
};

/// One side float32, the other bf16: three products of bf16, whose sums are those of float32. In this way tensor cores
/// do what would take ten times as long.
void mixed_product(Queue& queue, Product p) {
  Operand& f32 = p.a.is_f32 ? p.a : p.b;
  const int64_t outputs = p.a.is_f32 ? p.M : p.N;
  Parts parts{nullptr, f32.along_k ? outputs : p.K, f32.along_k ? p.K : outputs};
  const Tensor y(p.y, p.y_is_f32 ? DType::f32 : DType::bf16, {p.M, p.N});
  const size_t sums = p.y_is_f32 ? 0 : static_cast<size_t>(y.size());
  Scratch scratch(queue, Scratch::total(kLibraryWorkspace, parts.bytes(), sums * sizeof(float)));
  void* workspace = scratch.take<char>(kLibraryWorkspace);
  parts.plane = scratch.take<half_t>(parts.bytes() / sizeof(half_t));
  const RowLaunch l(parts.n, parts.cols);
  const void* source = f32.data ? f32.data : p.bank.data[0];
  split<<<l.grid, l.block, 0, queue.stream()>>>(parts.plane, {static_cast<const float*>(source), f32.ld}, parts.n,
                                                parts.cols, parts.ld());
  check_launch("splitting float32");
  const Product whole = p;
  if (sums > 0) p.y = scratch.take<float>(sums), p.ldy = p.N, p.y_is_f32 = true, p.add = false;
  f32.ld = parts.ld();
  f32.is_f32 = false;
  f32.is_vector = true;
  for (int part = 0; part < kParts; ++part) {
    f32.data = parts.plane + part * parts.n * parts.ld();
    plain_product(queue, p, workspace);
    p.add = true;
  }
  if (sums > 0) store_sums(queue, whole, static_cast<const float*>(p.y));
}

/// float32 times float32, rounded to bf16: the library, which has no such product, sums into scratch memory.
void rounded_f32_product(Queue& queue, const Product& p) {
  const size_t sums = static_cast<size_t>(p.M * p.N);
  Scratch scratch(queue, Scratch::total(kLibraryWorkspace, sums * sizeof(float)));
  void* workspace = scratch.take<char>(kLibraryWorkspace);
  Product whole = p;
  whole.y = scratch.take<float>(sums), whole.ldy = p.N, whole.y_is_f32 = true, whole.add = false;
  plain_product(queue, whole, workspace);
  store_sums(queue, p, static_cast<const float*>(whole.y));
}

void any_product(Stream& s, const Product& p) {
  Queue& queue = s.queue();
  if (p.offsets_E1) {
    const bool on_tensor_cores = !p.a.is_f32 && !p.b.is_f32;
    return on_tensor_cores ? bf16_product(queue.stream(), p) : f32_product(queue.stream(), p);
  }
  if (p.a.is_f32 != p.b.is_f32) return mixed_product(queue, p);
  if (p.a.is_f32 && !p.y_is_f32) return rounded_f32_product(queue, p);
  plain_product(queue, p, queue.scratch(kLibraryWorkspace));
}

/// The experts' codes transposed, so that they lie along k where the gradient of the input is multiplied.
struct TransposedCodes {
  int64_t ld;
  size_t bytes;
  explicit TransposedCodes(ExpertBank w)
      : ld((w[0].rows + kCodeAlignment - 1) / kCodeAlignment * kCodeAlignment),
        bytes(w.size() * static_cast<size_t>(w[0].cols * ld)) {}

  void set(cudaStream_t s, Product& p, ExpertBank w, uint8_t* codes) const {
    transpose_codes(s, codes, ld, p.bank, p.experts, w[0].rows, w[0].cols);
    for (int64_t e = 0; e < p.experts; ++e) p.bank.data[e] = codes + e * w[0].cols * ld;
    p.b.along_k = true;
    p.b.ld = ld;
    p.b.is_vector = true;
  }

 private:
  static constexpr int64_t kCodeAlignment = 16;
};

/// Quantises x by rows and multiplies.
void fp8_rows_product(Stream& s, Product p, const Tensor& x, ExpertBank w) {
  const cudaStream_t stream = s.queue().stream();
  const TransposedCodes transposed(w);
  const size_t codes = static_cast<size_t>(x.size()), scales = static_cast<size_t>(x.rows() * groups(x.cols()));
  const size_t matrix_codes = p.b.along_k ? 0 : transposed.bytes;
  Scratch scratch(s.queue(), Scratch::total(codes, scales * sizeof(float), matrix_codes));
  const Codes c{scratch.take<uint8_t>(codes), scratch.take<float>(scales)};
  fp8_rows(stream, c, x);
  if (!p.b.along_k) transposed.set(stream, p, w, scratch.take<uint8_t>(matrix_codes));
  p.a.outer = groups(x.cols());
  p.a = coded(c, x.cols(), p.a);
  fp8_product(stream, p);
}

/// y (=|+=) x w' (along_k), or x w.
void rows_product(Stream& s, const Tensor& y, const Tensor& x, const Group& g, bool along_k, Out out) {
  if (y.size() == 0) return;
  Product p;
  set_group(p, g);
  set_output(p, y, out);
  p.K = x.cols();
  p.b = matrices(g.matrices, along_k);
  p.a = operand(x, true);
  g.matrices[0].format == Format::fp8_128 ? fp8_rows_product(s, p, x, g.matrices) : any_product(s, p);
}

/// In how many parts the tokens of a gradient (M, N) are multiplied: where it has few tiles, so many that about all
/// multiprocessors have some. Depends on the shape alone.
int64_t token_parts(int64_t M, int64_t N, int64_t T) {
  constexpr int64_t kMost = 4, kProcessors = 132, kTileRows = 256, kTileCols = 128;
  constexpr double kCostOfAPart = 0.15;  // of the whole
  const int64_t tiles = static_cast<int64_t>(blocks(M, kTileRows)) * blocks(N, kTileCols);
  int64_t best = 1;
  double least = 0;
  for (int64_t parts = 1; parts <= kMost && parts * 4 * kGroup <= T; ++parts) {
    const double rounds = static_cast<double>((tiles * parts + kProcessors - 1) / kProcessors);
    const double cost = rounds / static_cast<double>(parts) * (1 + kCostOfAPart * static_cast<double>(parts));
    if (parts == 1 || cost < least) best = parts, least = cost;
  }
  return best;
}

/// offsets (parts + 1): tokens in parts of whole groups.
__global__ void cut_tokens(int32_t* offsets, int64_t T, int64_t parts) {
  const int64_t p = threadIdx.x, tiles = (T + kGroup - 1) / kGroup;
  if (p <= parts) offsets[p] = static_cast<int32_t>(min(tiles * p / parts * kGroup, T));
}

__global__ void add_token_parts(float* y, const float* part, int64_t parts, int64_t n, bool add) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float sum = add ? y[i] : 0.0f;
  for (int64_t p = 0; p < parts; ++p) sum += part[p * n + i];
  y[i] = sum;
}

/// Quantises dy and x by tiles of 128 tokens x 1 channel, x after a round trip through tiles of rows, and multiplies.
void fp8_depth_product(Stream& s, Product p, const Tensor& dy, const Tensor& x) {
  const cudaStream_t stream = s.queue().stream();
  const int64_t T = x.rows(), n = p.M * p.N, parts = p.offsets_E1 ? 1 : token_parts(p.M, p.N, T);
  if (parts > 1) p.experts = parts;
  const int64_t tiles = column_scale_rows(T, p.experts), tokens = tiles * kGroup;
  const size_t dy_codes = static_cast<size_t>(tokens * dy.cols()), dy_scales = static_cast<size_t>(tiles * dy.cols());
  const size_t x_codes = static_cast<size_t>(tokens * x.cols()), x_scales = static_cast<size_t>(tiles * x.cols());
  const size_t sums = parts > 1 ? static_cast<size_t>(parts * n) : 0;
  Scratch scratch(s.queue(), Scratch::total(dy_codes, dy_scales * sizeof(float), x_codes, x_scales * sizeof(float),
                                            sums * sizeof(float), static_cast<size_t>(parts + 1) * sizeof(int32_t)));
  const Codes left{scratch.take<uint8_t>(dy_codes), scratch.take<float>(dy_scales)};
  const Codes right{scratch.take<uint8_t>(x_codes), scratch.take<float>(x_scales)};
  float* y = static_cast<float*>(p.bank.data[0]);
  float* part = scratch.take<float>(sums);
  const bool add = p.add;
  if (parts > 1) {
    int32_t* offsets = scratch.take<int32_t>(static_cast<size_t>(parts + 1));
    cut_tokens<<<1, 32, 0, stream>>>(offsets, T, parts);
    p.offsets_E1 = offsets;
    p.add = false;
    for (int64_t i = 0; i < parts; ++i) p.bank.data[i] = part + i * n;
  }
  fp8_columns(stream, left, dy, p.offsets_E1, p.experts, Retile::no);
  fp8_columns(stream, right, x, p.offsets_E1, p.experts, Retile::yes);
  p.in_groups = true;
  p.a.along_k = p.b.along_k = true;
  p.a.outer = p.b.outer = 1;
  p.a.inner = dy.cols();
  p.b.inner = x.cols();
  p.a = coded(left, tokens, p.a);
  p.b = coded(right, tokens, p.b);
  fp8_product(stream, p);
  if (parts == 1) return;
  constexpr unsigned kThreads = 256;
  add_token_parts<<<blocks(n, kThreads), kThreads, 0, stream>>>(y, part, parts, n, add);
  check_launch("adding up parts of a gradient");
}

/// The gradient of the expert blockIdx.y = 0 if it has no rows.
__global__ void zero_unused(const __grid_constant__ Bank bank, const int32_t* offsets_E1, int64_t n) {
  if (offsets_E1[blockIdx.y] != offsets_E1[blockIdx.y + 1]) return;
  float* gradient = static_cast<float*>(bank.data[blockIdx.y]);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    gradient[i] = 0;
}

/// dw (=|+=) dy' x.
void depth_product(Stream& s, const Group& g, const Tensor& dy, const Tensor& x, Format format, Out out) {
  if (dy.size() == 0 || x.size() == 0) {
    for (const Matrix& m : g.matrices)
      if (out == Out::set) cuda::zero(s, m.tensor());
    return;
  }
  Product p;
  set_group(p, g);
  p.ldy = g.matrices[0].cols;
  p.add = out == Out::add;
  if (!p.add && p.offsets_E1) {
    constexpr unsigned kBlocks = 32, kThreads = 256;
    zero_unused<<<dim3(kBlocks, static_cast<unsigned>(p.experts)), kThreads, 0, s.queue().stream()>>>(
        p.bank, p.offsets_E1, g.matrices[0].size());
    check_launch("gradients of experts without rows");
  }
  p.by_depth = true;
  p.M = g.matrices[0].rows;
  p.N = g.matrices[0].cols;
  p.K = x.rows();
  p.a = operand(dy, false);
  p.b = operand(x, false);
  if (format == Format::fp8_128) return fp8_depth_product(s, p, dy, x);
  any_product(s, p);
}

}  // namespace

void linear_forward(Stream& s, Tensor y, const Tensor& x, const Matrix& w, Out out) {
  rows_product(s, y, x, dense(w), true, out);
}

void linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Matrix& w, Out out) {
  rows_product(s, dx, dy, dense(w), false, out);
}

void linear_backward_weight(Stream& s, const Matrix& dw, const Tensor& dy, const Tensor& x, Format format, Out out) {
  depth_product(s, dense(dw), dy, x, format, out);
}

void grouped_linear_forward(Stream& s, Tensor y, const Tensor& x, const Tensor& offsets, ExpertBank w, Out out) {
  rows_product(s, y, x, grouped(offsets, w), true, out);
}

void grouped_linear_backward_input(Stream& s, Tensor dx, const Tensor& dy, const Tensor& offsets, ExpertBank w,
                                   Out out) {
  rows_product(s, dx, dy, grouped(offsets, w), false, out);
}

void grouped_linear_backward_weight(Stream& s, ExpertBank dw, const Tensor& dy, const Tensor& x, const Tensor& offsets,
                                    Format format, Out out) {
  depth_product(s, grouped(offsets, dw), dy, x, format, out);
}

}  // namespace sluice::cuda
