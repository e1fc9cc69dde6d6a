// The weights of a GGUF file of architecture deepseek2 by the names of checkpoints (specification 10.5).
#pragma once
#include <memory>
#include <optional>

#include "formats/gguf.h"
#include "model/checkpoint.h"

namespace sluice {

/// Finds the matrices of parameters in a file (or in all its parts). Every member throws Error, one line naming file
/// and tensor: missing, of another shape than the parameter's, or of a type that cannot be computed with.
class GgufRows {
 public:
  GgufRows(std::shared_ptr<const GgufFile> file, const HfConfig& config);

  /// The parameter as it lies in the file, read-only; none for kv_b where the file holds it in halves.
  std::optional<Matrix> mapped(const Param& p) const;
  /// Rows [begin, begin + rows) as float32.
  void read(const Param& p, int64_t begin, int64_t rows, float* out) const;

 private:
  Matrix half(const std::string& name, int64_t cols, int64_t rows) const;
  void read_halves(const std::string& keys, const std::string& values, int64_t begin, int64_t rows, float* out) const;

  std::shared_ptr<const GgufFile> file_;
  HfConfig config_;
};

/// The format with the elements of a type, where there is one.
std::optional<Format> format_of(GgmlType type);
/// The inverse; of every format but fp8_128.
GgmlType ggml_type_of(Format format);

/// MTP modules of which the file has tensors: config.num_nextn_predict_layers or 0.
int64_t stored_mtp_modules(const GgufFile& file, const HfConfig& config);

}  // namespace sluice
