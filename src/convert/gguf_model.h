// GGUF files of architecture deepseek2 (specification 10.4, 10.5) -> a Model for inference.
#pragma once
#include <memory>

#include "base/stream.h"
#include "formats/gguf.h"
#include "model/model.h"

namespace sluice {

/// The model in a GGUF file. f32, bf16 and block formats (ops/block_format.h) are not copied: their matrices point into
/// the mapping, which `files` of the model keeps. Norms, router and its bias become f32, as do f16 matrices. kv_b is
/// one f32 matrix whichever layout the file has. config.num_nextn_predict_layers is set to the MTP modules found.
/// Throws Error as read_gguf_config and GgufRows do.
Model load_gguf_model(Stream& s, const std::shared_ptr<const GgufFile>& file);

/// The same in two steps: what needs no reading, and then the copies, which have shape and format but no data before.
Model map_gguf_model(const std::shared_ptr<const GgufFile>& file);
void read_gguf_copies(Stream& s, Model& model, const std::shared_ptr<const GgufFile>& file);

}  // namespace sluice
