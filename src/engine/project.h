// Products with weights of any format, repacked for the machine.
// T, R rows, K inputs, N outputs, E experts.
#pragma once
#include <functional>
#include <initializer_list>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "engine/expert_cache.h"
#include "model/weights.h"
#include "ops/packed.h"

namespace sluice {

/// Rows that enter one or several products.
struct InferInput {
  Tensor x;                            // (T, K) f32
  PreparedRows codes, floats, halves;  // where one of the products wants them
};

/// `x` for products with `weights`; prepared rows in `a`.
InferInput infer_input(Stream& s, Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights);

/// The same without the rows: room for what prepare_input() fills. The products are those of the arena's device.
InferInput reserve_input(Arena& a, const Tensor& x, std::initializer_list<const Matrix*> weights);
/// Prepares rows [begin, begin + count) of x.
void prepare_input(Stream& s, const InferInput& input, int64_t begin, int64_t count);

/// Sees the rows x (T, K) f32 that enter the product with `w`, whose data identifies it; of experts one call for each
/// that has rows.
using ProductObserver = std::function<void(const Tensor& x_TK, const Matrix& w)>;

/// y_TN (=|+=) x_TK w_NK', with the first N rows of w where it has more.
struct Projection {
  Tensor y;
  const Matrix& w;
  Out out = Out::set;
};

/// y_RN = x_RK w_NK' with the matrix of each row's expert.
struct ExpertProjection {
  Tensor y;
  ExpertBank w;
};

/// Where the rows of experts come from.
struct RoutedRows {
  Tensor offsets_E1;
  Tensor slot_of_R = {};         // empty: row r of x
  bool last_takes_rest = false;  // as in ops/packed.h
};

/// Neighbouring rows.
struct RowRange {
  int64_t begin, count;
};

/// What a Projector needs for all matrices of `w`.
size_t total_packed_bytes(const ModelWeights& w);

/// Does the products of an engine. Matrices are brought into the machine's layout (ops/packed.h) when they are first
/// used: a model answers before all of it has been read, and experts that are never chosen cost nothing. A matrix is
/// identified by its data, which must stay where it is.
class Projector {
 public:
  /// `packed_bytes`: address space for all the matrices that it will be given; see total_packed_bytes(). Memory is
  /// taken as they are packed, in huge pages: with small ones, looking up addresses costs a tenth of the speed.
  explicit Projector(size_t packed_bytes) : memory_(packed_bytes) {}

  /// Does those of an engine on a GPU instead. Its matrices lie there packed (engine/gpu_weights.h).
  explicit Projector(const Device& gpu) : memory_(0), device_(gpu) {}

  /// What has been read and computed: weights once per product, cached rows once per token, multiply and add apart. On
  /// a GPU, where nobody knows which experts have rows, as many are counted as there could be.
  struct Work {
    double bytes = 0, operations = 0;
  };

  /// Products of the same rows, all at once.
  void project(Stream& s, const InferInput& x, std::initializer_list<Projection> products);

  /// Routed experts come from `experts` from now on, and files of which `mappings` holds other matrices are not kept
  /// in memory. Both must outlive the projector.
  void bound(ExpertCache& experts, std::span<const MappedFile> mappings);
  /// Gives back the memory of a matrix in such a file.
  void release(const Matrix& w);
  /// The router of a layer expects rows for these experts soon.
  void expect_experts(const MoeWeights& w, std::span<const int32_t> experts);

  /// Begins with the experts of a layer that have rows, `rows` in all; `offsets_E1` as in ops/linear.h, valid until
  /// next_experts() returns false. Experts are taken in rounds: all at once, unless they come from a cache.
  void begin_experts(const MoeWeights& w, const Tensor& offsets_E1, int64_t rows);
  /// Goes on to the next round; false: all have been taken.
  bool next_experts();
  /// The rows of the round's experts.
  std::span<const RowRange> expert_rows() const { return round_rows_; }
  /// The same for the rows of the round.
  void project_experts(Stream& s, const InferInput& x, std::initializer_list<ExpertProjection> products);

  /// The same on a GPU for all experts at once, with each token's rows where they lie: row r of the experts is row
  /// slot_of_R[r] / top_k of x (ops/packed.h). There may be one expert more than the bank has, which lies behind it.
  void project_routed(Stream& s, const InferInput& x, const RoutedRows& rows,
                      std::initializer_list<ExpertProjection> products);

  const Work& work() const { return work_; }
  /// Adds what was done elsewhere.
  void add_work(const Work& w) { work_.bytes += w.bytes, work_.operations += w.operations; }

  /// Calls `observer` for every product from now on.
  void observe(ProductObserver observer) { observer_ = std::move(observer); }

 private:
  struct Packed {
    PackedMatrix matrix;
    double row_bytes;  // read of a row
  };
  Packed packed(Stream& s, const Matrix& w);
  void count(const Packed& w, int64_t rows, int64_t outs);

  Arena memory_;
  Device device_;
  std::unordered_map<const void*, Packed> packed_;
  std::vector<PackedProduct> products_;  // being done
  std::vector<PackedExpertProduct> expert_products_;
  ExpertCache* experts_ = nullptr;
  std::span<const MappedFile> mappings_;
  Tensor offsets_E1_;           // of the layer being done
  int64_t num_rows_ = 0;        // the same
  std::vector<int32_t> round_;  // its experts, ascending
  bool has_begun_ = false;      // the only round, where there is no cache
  std::vector<RowRange> round_rows_;
  ProductObserver observer_;
  Work work_;
};

}  // namespace sluice
