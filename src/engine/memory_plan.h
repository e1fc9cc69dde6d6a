// What an engine that is to stay below a bound keeps in memory: everything but the routed experts, and as many of those
// as there is room for (engine/expert_cache.h).
#pragma once
#include <string>

#include "engine/layers.h"
#include "model/model.h"

namespace sluice {

struct EngineOptions {
  int64_t context = 0;  // most tokens of a sequence; 0: the model's max_position_embeddings
  int64_t tokens = 0;   // room in the cache for all sequences together; 0: for one of `context`
  size_t memory = 0;    // most bytes of weights, cache and working memory; 0: no bound
};

struct MemoryPlan {
  size_t budget = 0;
  size_t weights = 0;      // all but the routed experts, in the machine's layout
  size_t sequences = 0;    // the KV cache
  size_t workspace = 0;    // of a pass of `pass_rows` rows, and of reading
  int64_t pass_rows = 0;   // most rows of one pass
  size_t slot_bytes = 0;   // of the largest expert: the place of one in the cache
  int64_t slots = 0;       // experts kept
  int64_t experts = 0;     // of all layers
  size_t token_bytes = 0;  // of the file, read for a token of whose experts none is kept
};

/// The tokens of a sequence that options mean. Throws Error when they are not positive or too many to address.
int64_t checked_context(const HfConfig& c, int64_t context);

/// Shape of a model's attention.
LatentShape latent_shape(const HfConfig& c);

/// Pages of the KV cache for `tokens`.
int64_t pages_for(int64_t tokens);

/// Working memory of one pass of up to `rows` rows with weights of these formats, in the memory of `device`.
size_t pass_bytes(const HfConfig& c, const ModelWeights& w, int64_t context, int64_t rows, const Device& device = {});

/// On a GPU tables of pages grow by so many columns: passes of another shape are recorded anew.
constexpr int64_t kGpuPageStep = 16;

/// What an engine takes of a GPU's memory.
struct GpuPlan {
  size_t weights = 0, sequences = 0, workspace = 0;  // the last: of a pass, and of ops
  size_t bytes() const { return weights + sequences + workspace; }
};
GpuPlan plan_gpu(const Model& m, const EngineOptions& options, const Device& gpu);

/// What the rows of its cache are there: float32 where the model's weights are.
DType gpu_cache_dtype(const ModelWeights& w);

/// Why an engine does not fit on a GPU that has `available` bytes left, as the end of a sentence; empty where it does.
std::string why_too_large(const GpuPlan& plan, size_t available);

/// Rows of logits that an engine on a GPU computes at a time.
int64_t gpu_logit_rows(const HfConfig& c);

/// The plan for options.memory, of a model whose experts lie in its `mappings`; nothing of it needs to have been read.
/// Throws Error, one line that says what is needed, when the bound cannot hold everything else and the experts of one
/// token in one layer, or when the model has no experts in files.
MemoryPlan plan_memory(const Model& m, const EngineOptions& options);

}  // namespace sluice
