// The golden checkpoints under tests/golden/hf, loaded once, and engines over them.
#pragma once
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/session.h"
#include "formats/safetensors.h"
#include "model/checkpoint.h"

namespace sluice::test {

/// max|d| <= kLogitsTolerance * max|ref|, for float32 implementations.
constexpr double kLogitsTolerance = 2e-4;

inline Stream& stream(int threads) {
  static std::map<int, std::unique_ptr<Stream>> streams;
  auto& s = streams[threads];
  if (!s) s = std::make_unique<Stream>(threads);
  return *s;
}

inline fs::path golden_folder(const std::string& name) {
  return fs::path(SLUICE_SOURCE_DIR) / "tests/golden/hf" / name;
}

/// The checkpoint in the formats of its file.
inline const Model& golden_model(const std::string& name) {
  static std::map<std::string, Model> models;
  const auto found = models.find(name);
  if (found != models.end()) return found->second;
  const fs::path folder = golden_folder(name);
  return models.emplace(name, load_model(stream(1), folder, file_precision(SafetensorsFolder(folder)))).first->second;
}

inline const SafetensorsFile& golden_values(const std::string& name) {
  static std::map<std::string, SafetensorsFile> files;
  const auto found = files.find(name);
  if (found != files.end()) return found->second;
  return files.emplace(name, SafetensorsFile(golden_folder(name) / "expected.safetensors")).first->second;
}

inline const std::vector<std::string>& golden_names() {
  static const std::vector<std::string> names = {"v3", "v3-yarn", "moonlight", "v2", "v2-lite", "mtp", "fp8"};
  return names;
}

/// Sequences of token ids, (B, T) int64 in the file.
inline std::vector<std::vector<int32_t>> sequences(const SafetensorsEntry& e) {
  std::vector<std::vector<int32_t>> rows(static_cast<size_t>(e.shape[0]));
  const size_t T = static_cast<size_t>(e.shape[1]);
  for (size_t b = 0; b < rows.size(); ++b)
    for (size_t t = 0; t < T; ++t) {
      int64_t id;
      std::memcpy(&id, e.bytes.data() + (b * T + t) * sizeof id, sizeof id);
      rows[b].push_back(static_cast<int32_t>(id));
    }
  return rows;
}

inline std::vector<float> values(const Tensor& t) { return {t.f32(), t.f32() + t.size()}; }

inline void append(std::vector<float>& out, const Tensor& t) { out.insert(out.end(), t.f32(), t.f32() + t.size()); }

/// Logits of all of `ids`, fed in pieces of `chunk`.
inline std::vector<float> logits_in_chunks(Session& session, std::span<const int32_t> ids, size_t chunk) {
  std::vector<float> out;
  for (size_t i = 0; i < ids.size(); i += chunk) {
    const auto piece = ids.subspan(i, std::min(chunk, ids.size() - i));
    append(out, session.feed(piece, static_cast<int64_t>(piece.size())));
  }
  return out;
}

/// max|a - ref| / max|ref|.
inline double max_error(std::span<const float> a, std::span<const float> ref) {
  EXPECT_EQ(a.size(), ref.size());
  double error = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), ref.size()); ++i) {
    error = std::max(error, std::abs(static_cast<double>(a[i]) - ref[i]));
    largest = std::max(largest, std::abs(static_cast<double>(ref[i])));
  }
  return error / largest;
}

/// Equal bits: NaN equals itself, 0 does not equal -0.
inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace sluice::test
