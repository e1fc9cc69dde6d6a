// The inference engine: one model, the cache its sequences share, and passes over rows of one or several sequences.
// Token ids in, hidden states and logits out. T rows (tokens), D model, V vocabulary. All results are row-invariant
// (ops/infer.h): they do not depend on how a sequence is cut into passes, on threads or on pages.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/stream.h"
#include "engine/kv_cache.h"
#include "engine/expert_cache.h"
#include "engine/gpu_choices.h"
#include "engine/gpu_weights.h"
#include "engine/layers.h"
#include "engine/memory_plan.h"
#include "engine/recorded_passes.h"
#include "model/model.h"

namespace sluice {

/// How a token attends: part of what its results depend on, besides the tokens before it.
enum class RowKind : uint8_t {
  text,    // in the absorbed form: for tokens that come one or a few at a time
  prompt,  // with expanded keys and values: faster for many tokens
};

/// Consecutive tokens of one sequence in a pass.
struct PassRows {
  std::span<const int32_t> ids;    // one per row
  int64_t begin = 0;               // position of the first
  std::span<const int32_t> pages;  // of the sequence, enough for all of its positions
  RowKind kind = RowKind::text;
};

/// A token to be drawn from the logits of a row as by a rule of a temperature alone (ops/sample.h).
struct Draw {
  float temperature = 1;
  int64_t limit = 0;  // among the first so many ids
  Rng noise{0};
};

class Engine {
 public:
  /// Passes run on the device of `gpu`, and on `s` where it is null; `s` is a stream of the CPU. Both and `model` must
  /// outlive the engine. Throws Error when the context is not positive or too large to address, when the GPU has too
  /// little memory, and as plan_memory does; a bound of memory is for the CPU alone.
  Engine(Stream& s, const Model& model, const EngineOptions& options, Stream* gpu = nullptr);

  const Model& model() const { return model_; }
  const HfConfig& config() const { return model_.config; }
  int64_t context() const { return context_; }
  /// Whether the model has an MTP module to draft with.
  bool has_mtp() const { return mtp_.has_value(); }
  /// Drafts are chosen among the first so many ids: all, or the frequent ones where the head is much of a pass.
  int64_t draft_vocab() const { return draft_vocab_; }
  /// What all passes have read and computed.
  const Projector::Work& work() const { return projector_.work(); }
  /// For what is done with logits, which lie in host memory.
  Stream& stream() { return host_; }
  bool is_on_gpu() const { return gpu_ != nullptr; }
  KvCache& cache() { return cache_; }
  /// Calls `observer` with what enters each product with a weight, but for kv_b's. On the CPU alone.
  void observe(ProductObserver observer);

  /// Calls `observer` with every choice of experts from now on; an empty one ends that.
  void observe_routing(RouteObserver observer);

  /// Does the products of the experts of this rank alone from now on; `ranks` must outlive the engine, and all of them
  /// make the same passes. On the CPU, without a bound of memory.
  void share_experts(ExpertRanks& ranks);

  /// Most rows of one pass: kPassRows, fewer where memory is bounded, kGpuPassRows on a GPU.
  int64_t pass_rows() const { return pass_rows_; }
  /// What has been read of the routed experts; null where memory is not bounded.
  ExpertCache* experts() { return experts_.get(); }

  /// Tensors of these are in host memory.
  /// hidden_TD (f32, packed) = hidden states after the final norm of the rows of all parts, one after another; their
  /// keys are written to the pages. Parts of text come first; 1 <= T <= pass_rows(). Throws Error for an id outside the
  /// vocabulary and for experts that cannot be read.
  /// Of rows before `wanted` they may stay on a GPU, and undefined here.
  void forward(Tensor hidden_TD, std::span<const PassRows> parts, int64_t wanted = 0);

  /// The MTP module over the same rows: z_TD = input of the head that predicts the token after a part's ids[t], which
  /// here are the tokens that follow the rows; from the rows' hidden states.
  void forward_mtp(Tensor z_TD, const Tensor& hidden_TD, std::span<const PassRows> parts);

  /// On a GPU, for parts of text of a row each: ids[i] is drawn as draws[i] says, all with one limit, from the logits
  /// of part i; neither these nor hidden states come to host memory. Throws as forward() does.
  void draw(std::span<int32_t> ids, std::span<const PassRows> parts, std::span<const Draw> draws);

  /// logits (T, N) f32, packed, of the first N ids, N <= V, from hidden states or MTP outputs.
  void logits(Tensor logits, const Tensor& hidden_TD);

 private:
  /// What the rows of a pass are, in the memory of its device.
  struct Inputs {
    InferPass pass;
    Tensor ids_T;
    Tensor keys;  // of draws (T, 3) i32; or empty
  };

  const ModelWeights& weights() const { return gpu_weights_ ? gpu_weights_->weights() : model_.weights; }
  Tensor as_f32(const Matrix& norm);
  void bound_memory(const EngineOptions& options);
  void fill_rope(int64_t rows);
  void give_choices();
  Tensor fill_tables(Arena& a, std::span<const PassRows> parts, std::span<const DrawKey> keys, int64_t most_pages);
  Inputs inputs(Arena& a, std::span<const PassRows> parts, int64_t rows, std::span<const DrawKey> keys = {});
  Tensor embed(Arena& a, const Inputs& in);
  void run_blocks(const Tensor& out_TD, const Inputs& in);
  void run_recorded(const Inputs& in, int64_t limit, const std::function<void()>& queue_ops);
  void queue_draws(const Tensor& ids_T, const Tensor& out_TD, const Inputs& in, int64_t limit);
  int32_t draw_on_host(const Tensor& hidden_D, const Draw& d);
  Tensor to_device(Arena& a, const Tensor& host);
  Tensor place_on_device(Arena& a, const Tensor& host);
  void to_host(const Tensor& host, const Tensor& there);

  Stream& host_;
  Stream* gpu_;
  Stream& s_;  // of the passes
  const Model& model_;
  int64_t context_, draft_vocab_, pass_rows_;
  std::unique_ptr<GpuWeights> gpu_weights_;  // null: those of the model
  std::unique_ptr<ExpertCache> experts_;
  Projector projector_;
  ExpertRanks* ranks_ = nullptr;
  RouteObserver route_observer_;         // the caller's
  std::unique_ptr<GpuChoices> choices_;  // for it, on a GPU
  RouteObserver pass_observer_;          // the one that passes call
  Arena norms_;
  Arena rope_memory_;
  Tensor rope_table_;
  int64_t rope_rows_ = 0;  // rows of the table that are filled
  std::vector<InferBlock> blocks_;
  std::optional<InferMtp> mtp_;
  Tensor final_norm_;
  KvCache cache_;
  Arena workspace_;
  std::vector<PromptRows> prompts_;  // of the pass
  std::vector<int32_t> tables_;      // of the pass: ids, positions, sequences, pages, keys
  RecordedPasses recorded_;          // on a GPU
};

}  // namespace sluice
