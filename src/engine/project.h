// Products with weights of any format, repacked for the machine.
// T, R rows, K inputs, N outputs, E experts.
#pragma once
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "ops/packed.h"

namespace sluice {

/// Rows that enter one or several products.
struct InferInput {
  Tensor x;                    // (T, K) f32
  PreparedRows codes, floats;  // where one of the products wants them
};

/// `x` for products with `weights`; prepared rows in `a`.
InferInput infer_input(Stream& s, Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights);

/// Sees the rows x (T, K) f32 that enter the product with `w`, whose data identifies it; of experts one call for each
/// that has rows.
using ProductObserver = std::function<void(const Tensor& x_TK, const Matrix& w)>;

/// Does the products of an engine. Matrices are brought into the machine's layout (ops/packed.h) when they are first
/// used: a model answers before all of it has been read, and experts that are never chosen cost nothing. A matrix is
/// identified by its data, which must stay where it is.
class Projector {
 public:
  /// What has been read and computed: weights once per product, cached rows once per token, multiply and add apart.
  struct Work {
    double bytes = 0, operations = 0;
  };

  /// y_TN (=|+=) x_TK w_NK', with the first N rows of w where it has more.
  void project(Stream& s, Tensor y, const InferInput& x, const Matrix& w, Out out = Out::set);

  /// y_RN = x_RK w_NK' with the matrix of each row's expert; `offsets_E1` as in ops/linear.h.
  void project_experts(Stream& s, Tensor y, const InferInput& x, const Tensor& offsets_E1, ExpertBank w);

  const Work& work() const { return work_; }
  /// Adds what was done elsewhere.
  void add_work(const Work& w) { work_.bytes += w.bytes, work_.operations += w.operations; }

  /// Calls `observer` for every product from now on.
  void observe(ProductObserver observer) { observer_ = std::move(observer); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  struct Entry {
    std::unique_ptr<std::byte, Free> memory;
    PackedMatrix matrix;
  };
  const PackedMatrix& packed(Stream& s, const Matrix& w);
  void count(const Matrix& w, int64_t rows, int64_t outs);

  std::unordered_map<const void*, Entry> entries_;
  std::vector<PackedMatrix> bank_;  // of the product being done
  ProductObserver observer_;
  Work work_;
};

}  // namespace sluice
