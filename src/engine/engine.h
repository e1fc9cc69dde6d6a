// The inference engine: one model, the cache its sequences share, and passes over the rows of one sequence.
// Token ids in, hidden states and logits out. T rows (tokens), D model, V vocabulary. All results are row-invariant
// (ops/infer.h): they do not depend on how a sequence is cut into passes, on threads or on pages.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "base/stream.h"
#include "engine/kv_cache.h"
#include "engine/layers.h"
#include "model/model.h"

namespace sluice {

struct EngineOptions {
  int64_t context = 0;  // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t tokens = 0;   // room in the cache for all sequences together; 0: for one of `context`
};

class Engine {
 public:
  /// `s` and `model` must outlive the engine. Throws Error when the context is not positive or too large to address.
  Engine(Stream& s, const Model& model, const EngineOptions& options);

  const HfConfig& config() const { return model_.config; }
  int64_t context() const { return context_; }
  /// Whether the model has an MTP module to draft with.
  bool has_mtp() const { return mtp_.has_value(); }
  Stream& stream() { return s_; }
  KvCache& cache() { return cache_; }

  /// Most rows of one pass: bounds the working memory.
  static constexpr int64_t kPassRows = 1024;

  /// hidden_TD (f32, packed) = hidden states after the final norm of `ids` at positions begin, begin + 1, ...; their
  /// keys are written to the pages (i32). 1 <= T <= kPassRows. Throws Error for an id outside the vocabulary.
  void forward(Tensor hidden_TD, std::span<const int32_t> ids, int64_t begin, const Tensor& pages);

  /// The MTP module over the same positions: z_TD = input of the head that predicts the token after next_ids[t], from
  /// the rows' hidden states and the tokens after them.
  void forward_mtp(Tensor z_TD, const Tensor& hidden_TD, std::span<const int32_t> next_ids, int64_t begin,
                   const Tensor& pages);

  /// logits (T, V) f32, packed, of hidden states or MTP outputs.
  void logits(Tensor logits, const Tensor& hidden_TD);

 private:
  Tensor as_f32(const Matrix& norm);
  InferBlock block(const BlockWeights& w);
  InferPass pass(Arena& a, int64_t begin, int64_t rows);
  Tensor embed(Arena& a, std::span<const int32_t> ids);
  size_t workspace_bytes() const;

  Stream& s_;
  const Model& model_;
  int64_t context_;
  Arena norms_;
  Arena rope_memory_;
  Tensor rope_table_;
  int64_t rope_rows_ = 0;  // rows of the table that are filled
  std::vector<InferBlock> blocks_;
  std::optional<InferMtp> mtp_;
  Tensor final_norm_;
  KvCache cache_;
  Arena workspace_;
};

}  // namespace sluice
