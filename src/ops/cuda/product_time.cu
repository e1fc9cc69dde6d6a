#include "ops/product_time.h"

#include <vector>

#include "base/arena.h"
#include "base/op_times.h"
#include "ops/cuda/fp8.cuh"
#include "ops/cuda/gemm_library.h"
#include "ops/cuda/product.h"
#include "ops/cuda/quant.h"

namespace sluice::cuda {
namespace {

constexpr unsigned kThreads = 256;

/// About normal, from the index alone.
__device__ float random_number(uint64_t i) {
  float sum = 0;
  uint64_t bits = (i + 1) * 0x9e3779b97f4a7c15u;
  for (int n = 0; n < 4; ++n) {
    bits = (bits ^ bits >> 31) * 0xbf58476d1ce4e5b9u;
    sum += static_cast<float>(bits >> 40) * 0x1p-24f - 0.5f;
  }
  return sum * 1.7f;
}

__global__ void fill_halves(half_t* x, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) store(x + i, random_number(static_cast<uint64_t>(i)));
}
__global__ void fill_codes(uint8_t* x, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) x[i] = encode(100 * random_number(static_cast<uint64_t>(i)));
}
__global__ void fill_equal(float* x, int64_t n, float value) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) x[i] = value;
}

/// Memory of one product, and the product.
class Setup {
 public:
  Setup(Stream& s, const ProductCase& c)
      : stream_(s.queue().stream()), case_(c), arena_(bytes(c), s.device()), tokens_(padded_rows(c)) {
    scale_ = arena_.alloc(DType::f32, {scales(c)}).f32();
    fill_equal<<<blocks(scales(c), kThreads), kThreads, 0, stream_>>>(scale_, scales(c), 0x1p-7f);
    product_.experts = c.experts;
    if (c.experts > 1) product_.offsets_E1 = even_offsets(s);
    c.is_gradient ? set_gradient() : set_forward();
    check_launch("filling a product");
  }
  const Product& product() const { return product_; }

 private:
  /// Rows of codes along tokens: a tile more for every expert (ops/cuda/quant.h).
  static int64_t padded_rows(const ProductCase& c) {
    return c.is_fp8 && c.is_gradient ? column_scale_rows(c.rows, c.experts) * kGroup : c.rows;
  }
  static int64_t scales(const ProductCase& c) {
    const int64_t widest = std::max(c.outputs, c.inputs) + kGroup;
    return (padded_rows(c) / kGroup + 4) * widest + (c.outputs / kGroup + 4) * (c.inputs / kGroup + 4) * c.experts;
  }
  static size_t bytes(const ProductCase& c) {
    const int64_t element = c.is_fp8 ? 1 : 2, weight = c.outputs * c.inputs * c.experts, rows = padded_rows(c);
    const int64_t sides = element * (rows * c.inputs + (c.is_gradient ? rows * c.outputs : weight));
    const int64_t out = c.is_gradient ? 4 * weight : 2 * c.rows * c.outputs;
    return static_cast<size_t>(sides + out + 4 * scales(c) + 4 * (c.experts + 1) + 4096);
  }

  const int32_t* even_offsets(Stream& s) {
    std::vector<int32_t> offsets;
    for (int64_t e = 0; e <= case_.experts; ++e)
      offsets.push_back(static_cast<int32_t>(case_.rows * e / case_.experts));
    const Tensor t = arena_.alloc(DType::i32, {case_.experts + 1});
    transfer(s.queue(), t, Tensor(offsets.data(), DType::i32, {case_.experts + 1}), Direction::to_device);
    return t.ptr<int32_t>();
  }
  void* random(int64_t n) {
    const Tensor t = arena_.alloc(case_.is_fp8 ? DType::f8_e4m3 : DType::bf16, {n});
    if (case_.is_fp8)
      fill_codes<<<blocks(n, kThreads), kThreads, 0, stream_>>>(t.ptr<uint8_t>(), n);
    else
      fill_halves<<<blocks(n, kThreads), kThreads, 0, stream_>>>(t.ptr<half_t>(), n);
    return t.data;
  }

  void set_forward() {
    const ProductCase& c = case_;
    product_.M = c.rows, product_.N = c.outputs, product_.K = c.inputs;
    product_.y = arena_.alloc(DType::bf16, {c.rows, c.outputs}).data;
    product_.ldy = c.outputs;
    product_.y_is_f32 = false;
    product_.a.data = random(c.rows * c.inputs);
    product_.a.ld = product_.b.ld = c.inputs;
    product_.a.scale = scale_;
    product_.a.outer = groups(c.inputs);
    product_.b.group = kGroup;
    product_.b.outer = groups(c.inputs);
    char* weights = static_cast<char*>(random(c.experts * c.outputs * c.inputs));
    for (int64_t e = 0; e < c.experts; ++e) {
      product_.bank.data[e] = weights + e * c.outputs * c.inputs * (c.is_fp8 ? 1 : 2);
      product_.bank.scales[e] = scale_;
    }
  }

  void set_gradient() {
    const ProductCase& c = case_;
    product_.M = c.outputs, product_.N = c.inputs, product_.K = c.rows;
    product_.by_depth = product_.add = true;
    product_.in_groups = c.is_fp8;
    product_.ldy = c.inputs;
    product_.a.data = random(tokens_ * c.outputs);
    product_.b.data = random(tokens_ * c.inputs);
    product_.a.along_k = product_.b.along_k = c.is_fp8;
    product_.a.ld = c.is_fp8 ? tokens_ : c.outputs;
    product_.b.ld = c.is_fp8 ? tokens_ : c.inputs;
    product_.a.scale = product_.b.scale = scale_;
    product_.a.outer = product_.b.outer = 1;
    product_.a.inner = c.outputs;
    product_.b.inner = c.inputs;
    float* weights = arena_.alloc(DType::f32, {c.experts * c.outputs, c.inputs}).f32();
    for (int64_t e = 0; e < c.experts; ++e) product_.bank.data[e] = weights + e * c.outputs * c.inputs;
  }

  cudaStream_t stream_;
  const ProductCase& case_;
  Arena arena_;
  int64_t tokens_;
  float* scale_;
  Product product_;
};

double median_of(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

}  // namespace

ProductTime product_time(Stream& s, const ProductCase& c, int64_t runs) {
  const Setup setup(s, c);
  const Product& p = setup.product();
  Queue& queue = s.queue();
  void* workspace = queue.scratch(kLibraryWorkspace);
  std::vector<double> ours, library;
  for (int64_t i = -2; i < runs; ++i) {
    const auto begin = mark(queue);
    c.is_fp8 ? fp8_product(queue.stream(), p) : bf16_product(queue.stream(), p);
    const auto middle = mark(queue);
    const bool has_library = c.is_fp8 ? library_fp8_product(queue, p, workspace) : library_product(queue, p, workspace);
    const auto end = mark(queue);
    synchronize(queue);
    if (i < 0) continue;  // the first calls choose and load kernels
    ours.push_back(seconds_between(begin, middle));
    if (has_library) library.push_back(seconds_between(middle, end));
  }
  return {median_of(ours), median_of(library)};
}

}  // namespace sluice::cuda
