#include "convert/source.h"

#include <algorithm>
#include <memory>

#include "convert/gguf_config.h"
#include "convert/gguf_rows.h"
#include "convert/gguf_tokenizer.h"

namespace sluice {
namespace {

CheckpointSource open_folder(const fs::path& folder) {
  CheckpointSource c;
  c.path = resolve_checkpoint(folder);
  c.config = load_config(c.path);
  const auto files = std::make_shared<const SafetensorsFolder>(c.path);
  c.config.num_nextn_predict_layers = stored_mtp_modules(*files, c.config);
  c.precision = file_precision(*files) == Precision::f32 ? Precision::f32 : Precision::bf16;
  if (has_tokenizer(c.path)) c.tokenizer = load_tokenizer(c.path);
  c.rows = [files, rows = file_rows(*files)](const Param& p, int64_t begin, int64_t n, float* out) {
    rows(p, begin, n, out);
  };
  return c;
}

CheckpointSource open_gguf(const fs::path& path) {
  const auto file = std::make_shared<const GgufFile>(path);
  CheckpointSource c;
  c.path = file->path();
  c.is_gguf = true;
  c.config = read_gguf_config(file->metadata());
  c.config.num_nextn_predict_layers = stored_mtp_modules(*file, c.config);
  const auto& tensors = file->tensors();
  const bool is_f32 =
      std::all_of(tensors.begin(), tensors.end(), [](const GgufTensor& t) { return t.type == GgmlType::f32; });
  c.precision = is_f32 ? Precision::f32 : Precision::bf16;
  c.tokenizer = read_gguf_tokenizer(file->metadata());
  c.rows = [rows = GgufRows(file, c.config)](const Param& p, int64_t begin, int64_t n, float* out) {
    rows.read(p, begin, n, out);
  };
  return c;
}

}  // namespace

CheckpointSource open_checkpoint(const fs::path& path) {
  const auto gguf = find_gguf(path);
  return gguf ? open_gguf(*gguf) : open_folder(path);
}

}  // namespace sluice
