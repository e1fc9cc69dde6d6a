// Checkpoints: a folder in the Hugging Face layout (specification 10.1, 10.2) <-> a Model.
#pragma once
#include <functional>
#include <vector>

#include "base/file.h"
#include "formats/safetensors.h"
#include "model/model.h"

namespace sluice {

/// The folder that holds config.json: `folder` itself, or the one its `latest` link names (a training run).
/// Throws Error when neither is there.
fs::path resolve_checkpoint(const fs::path& folder);

/// Reads config.json of a checkpoint folder. Throws Error, also when its FP8 blocks are not 128 x 128.
HfConfig load_config(const fs::path& folder);

/// How the file holds its linear layers: F8_E4M3 -> fp8, BF16 and F16 -> bf16, else f32.
Precision file_precision(const SafetensorsFolder& files);

/// MTP modules whose tensors are all there. 0 when every tensor of the announced modules is missing (transformers drops
/// them on saving); throws Error when only some are. The copies of embedding and head are not looked for.
int64_t stored_mtp_modules(const SafetensorsFolder& files, const HfConfig& config);

/// Loads every weight into the formats of `precision`; any stored dtype converts to any format. Throws Error naming
/// file and tensor: missing, of another shape or dtype. Sets config.num_nextn_predict_layers to the modules found.
Model load_model(Stream& s, const fs::path& folder, Precision precision);
/// Loads those of `held` into a model of the folder's shape; the memory of others stays untouched.
void load_weights(Stream& s, const fs::path& folder, Model& m, const ParamMask& held);

/// Supplies rows [begin, begin + rows) of a matrix as packed float32; begin is a multiple of 128. Called from several
/// threads at once.
using RowSource = std::function<void(const Param& param, int64_t begin, int64_t rows, float* out)>;

/// The rows of a folder's tensors, block scales applied; any `begin`. `files` must outlive it. When called it throws
/// Error as load_model does.
RowSource file_rows(const SafetensorsFolder& files);

/// A checkpoint that several ranks write together: which of the parts this is, and which one each parameter is in, by
/// its place in parameters() (empty: all in the only one).
struct CheckpointPart {
  int part = 0, parts = 1;
  std::vector<int> owner = {};
  bool has(size_t place) const { return owner.empty() || owner[place] == part; }
  int of(size_t place) const { return owner.empty() ? 0 : owner[place]; }
};

/// Writes config.json and model*.safetensors into `folder` (which exists) with weights from `source`, stored as
/// `precision` says: f32; bf16 (biases f32); fp8 (linear layers E4M3 + weight_scale_inv, the rest as bf16). The MTP
/// modules' copies `embed_tokens` and `shared_head.head`, which public engines read, are written too.
/// Returns the sums of all files written. Of several parts each writes a shard with what is in it, if anything is, and
/// the first also config.json and the index; together they are a checkpoint like any other.
std::vector<FileSum> save_checkpoint(Stream& s, const fs::path& folder, const HfConfig& config, ModelWeights& shapes,
                                     Precision precision, const RowSource& source, const CheckpointPart& part = {});

/// The rows a Param's own matrix holds (f32, bf16 or fp8_128).
RowSource stored_rows();

/// The random initialisation: N(0, initializer_range^2), norms 1, biases 0; depends on (seed, parameter, element) only.
RowSource random_rows(const HfConfig& config, uint64_t seed);

/// Fills every matrix of `m` that is in `held`, in whatever format, from a source.
void fill_model(Stream& s, Model& m, const RowSource& source, const ParamMask& held = {});

}  // namespace sluice
