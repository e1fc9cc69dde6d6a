// Writing of models as GGUF files of architecture deepseek2 (specification 10.5), a few matrices in memory at a time.
#pragma once
#include <functional>
#include <optional>

#include "base/stream.h"
#include "convert/gguf_tensors.h"
#include "convert/importance.h"
#include "model/checkpoint.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// Supplies rows [begin, begin + rows) of matrix `index` (expert or head) of a tensor as they are to lie in the file.
/// Called from several threads at once.
using RowEncoder =
    std::function<void(const GgufOutput& tensor, int64_t index, int64_t begin, int64_t rows, std::byte* out)>;

/// Rounds the rows of `source`, which must take any `begin`. `importance` (may be null) must outlive the encoder.
RowEncoder rounded_rows(const HfConfig& config, const RowSource& source, const Importance* importance);

/// A random model, made for speed: of plain formats exactly what rounded_rows(random_rows(config, seed)) is; rows of
/// block formats consist of pieces of 256 elements, each one of 2^14 random ones.
RowEncoder random_encoder(const HfConfig& config, uint64_t seed);

/// What the file holds besides the weights.
struct GgufModelInfo {
  HfConfig config;  // num_nextn_predict_layers MTP modules are written
  std::optional<TokenizerData> tokenizer;
};

/// Writes `path` with matrices in `format` (any but fp8_128). Throws Error when the model or the tokenizer is one that
/// GGUF cannot describe, the disk has not enough room, or the encoder throws.
void write_gguf(Stream& s, const fs::path& path, const GgufModelInfo& info, Format format, const RowEncoder& rows);

}  // namespace sluice
