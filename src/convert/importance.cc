#include "convert/importance.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "formats/gguf_writer.h"

namespace sluice {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

std::vector<float> read_f32(const GgufTensor& t) {
  if (t.type != GgmlType::f32) fail("{}: {}: expected type F32, found {}", t.file, t.name, ggml_type_info(t.type).name);
  std::vector<float> values(t.bytes.size() / sizeof(float));
  std::memcpy(values.data(), t.bytes.data(), t.bytes.size());
  for (const float v : values)
    if (!(v >= 0) || !std::isfinite(v)) fail("{}: {}: expected finite numbers >= 0, found {}", t.file, t.name, v);
  return values;
}

}  // namespace

void Importance::add(const std::string& tensor, int64_t index, int64_t matrices, const Tensor& x_TK) {
  Entry& e = entries_[tensor];
  e.cols = x_TK.cols();
  e.sums.resize(static_cast<size_t>(matrices * e.cols));
  e.counts.resize(static_cast<size_t>(matrices));
  std::vector<float> sums(static_cast<size_t>(e.cols));  // of these rows: fewer roundings than row by row
  for (int64_t t = 0; t < x_TK.rows(); ++t) {
    const auto* x = static_cast<const float*>(x_TK.at(t));
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += x[i] * x[i];
  }
  float* total = e.sums.data() + index * e.cols;
  for (size_t i = 0; i < sums.size(); ++i) total[i] += sums[i];
  e.counts[static_cast<size_t>(index)] += static_cast<float>(x_TK.rows());
}

std::vector<float> Importance::find(const std::string& tensor, int64_t index, int64_t matrices, int64_t cols) const {
  const auto it = entries_.find(tensor);
  if (it == entries_.end()) return {};
  const Entry& e = it->second;
  if (e.cols != cols || static_cast<int64_t>(e.counts.size()) != matrices)
    fail("{}: {}: expected {} inputs of {} matrices, found {} of {}", file_, tensor, cols, matrices, e.cols,
         e.counts.size());
  const float count = e.counts[static_cast<size_t>(index)];
  if (count == 0) return {};
  const auto begin = e.sums.begin() + index * cols;
  std::vector<float> mean(begin, begin + cols);
  for (float& v : mean) v /= count;
  return mean;
}

Importance load_importance(const fs::path& path) {
  const GgufFile file(path);
  Importance importance;
  importance.file_ = path.string();
  for (const GgufTensor& t : file.tensors()) {
    if (!t.name.ends_with(kSums)) continue;
    const std::string name = t.name.substr(0, t.name.size() - kSums.size());
    const GgufTensor& counts = file.get(name + std::string(kCounts));
    Importance::Entry& entry = importance.entries_[name];
    entry.cols = t.cols();
    entry.sums = read_f32(t);
    entry.counts = read_f32(counts);
    if (t.rows() * t.matrices() != static_cast<int64_t>(entry.counts.size()))
      fail("{}: {}: expected {} counts, one for each matrix, found {}", counts.file, counts.name,
           t.rows() * t.matrices(), entry.counts.size());
    for (const float count : entry.counts)
      if (count != 0 && count < 1)
        fail("{}: {}: expected counts of 0 or at least 1, found {}", counts.file, counts.name, count);
  }
  if (importance.entries_.empty())
    fail("{}: expected an importance matrix (tensors named *{}), found none", path.string(), kSums);
  return importance;
}

void save_importance(const fs::path& path, const Importance& importance, const std::string& dataset,
                     int64_t chunk_tokens, int64_t chunks) {
  GgufMetadataBuilder metadata;
  metadata.add("general.type", "imatrix").add("imatrix.datasets", std::vector<std::string>{dataset});
  metadata.add("imatrix.chunk_count", static_cast<uint32_t>(chunks));
  metadata.add("imatrix.chunk_size", static_cast<uint32_t>(chunk_tokens));
  std::vector<std::string> names;
  for (const auto& [name, entry] : importance.entries()) names.push_back(name);
  std::sort(names.begin(), names.end());
  std::vector<GgufSpec> specs;
  for (const std::string& name : names) {
    const Importance::Entry& e = importance.entries().at(name);
    const auto matrices = static_cast<int64_t>(e.counts.size());
    specs.push_back({name + std::string(kSums), GgmlType::f32, {e.cols, matrices}});
    specs.push_back({name + std::string(kCounts), GgmlType::f32, {1, matrices}});
  }
  GgufWriter writer(path, metadata, specs);
  for (const std::string& name : names) {
    const Importance::Entry& e = importance.entries().at(name);
    writer.write(std::as_bytes(std::span(e.sums)));
    writer.write(std::as_bytes(std::span(e.counts)));
  }
  writer.commit();
}

}  // namespace sluice
