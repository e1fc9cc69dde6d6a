// A checkpoint of either kind, open for conversion: a folder in the Hugging Face layout or a GGUF file.
#pragma once
#include <optional>

#include "model/checkpoint.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// Nothing but the tokenizer is in memory before it is asked for.
struct CheckpointSource {
  fs::path path;  // of the folder or the file
  bool is_gguf = false;
  HfConfig config;      // num_nextn_predict_layers: the MTP modules found
  Precision precision;  // the plain one that keeps what the files hold: f32, or bf16 (of FP8 and block formats, too)
  std::optional<TokenizerData> tokenizer;
  RowSource rows;  // any `begin`; keeps the files mapped
};

/// `path` may be a checkpoint folder, a training run (its latest checkpoint), a GGUF file or a folder with one. Throws
/// Error; what is wrong with a tensor is thrown when its rows are read.
CheckpointSource open_checkpoint(const fs::path& path);

}  // namespace sluice
