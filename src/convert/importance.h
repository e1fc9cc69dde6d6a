// How much each input of each matrix matters: mean squares over a text, in the GGUF form of llama.cpp-family tools.
// For every tensor NAME of the model's file: NAME.in_sum2 (inputs, matrices) and NAME.counts (1, matrices), both f32.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"

namespace sluice {

/// Sums of squares of the inputs of each matrix of each tensor (experts have one each).
class Importance {
 public:
  struct Entry {
    int64_t cols = 0;
    std::vector<float> sums;    // (matrices, cols)
    std::vector<float> counts;  // (matrices): rows that were added
  };

  /// Adds rows of inputs x (T, K) f32, possibly strided, of matrix `index` of `matrices`.
  void add(const std::string& tensor, int64_t index, int64_t matrices, const Tensor& x_TK);

  /// Mean squares of the inputs of a matrix; empty where nothing is known: the tensor is missing, or no row came.
  /// Throws Error naming file and tensor when the file has other inputs or matrices than the model.
  std::vector<float> find(const std::string& tensor, int64_t index, int64_t matrices, int64_t cols) const;

  const std::unordered_map<std::string, Entry>& entries() const { return entries_; }

 private:
  friend Importance load_importance(const fs::path& path);
  std::string file_;  // for messages
  std::unordered_map<std::string, Entry> entries_;
};

/// Throws Error naming file and tensor.
Importance load_importance(const fs::path& path);

/// `dataset`: the name of the text, `chunk_tokens` and `chunks`: in which pieces it was read. All for information.
void save_importance(const fs::path& path, const Importance& importance, const std::string& dataset,
                     int64_t chunk_tokens, int64_t chunks);

}  // namespace sluice
