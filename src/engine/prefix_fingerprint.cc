#include "engine/prefix_fingerprint.h"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "engine/session.h"
#include "ops/block_format.h"

namespace sluice {
namespace {

class Hash {
 public:
  void add(std::string_view bytes) {
    for (size_t i = 0; i < bytes.size(); i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes.data() + i, std::min<size_t>(8, bytes.size() - i));
      value_ = mix64(value_ ^ word);
    }
    value_ = mix64(value_ ^ bytes.size());
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

/// The middle of a weight: few bytes, because experts may have to come from the disk.
void add_weight(Hash& hash, const Matrix& m) {
  constexpr size_t kBytes = 64;
  const size_t bytes = static_cast<size_t>(m.rows * row_bytes(m.format, m.cols));
  const size_t count = std::min(kBytes, bytes);
  hash.add({static_cast<const char*>(m.data) + (bytes - count) / 2, count});
}

/// The rows of the first tokens that the engine computes for ids spread over the vocabulary.
void add_rows(Hash& hash, Engine& engine) {
  const int64_t tokens = std::min(kPageTokens, engine.context());
  Rng rng(1);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(engine.config().vocab_size))));
  Session session(engine, false);
  session.feed(ids, 0);
  const KvCache& cache = engine.cache();
  std::vector<char> bytes(static_cast<size_t>(tokens * cache.width()) * dtype_size(cache.dtype()));
  const Tensor rows(bytes.data(), cache.dtype(), {tokens, cache.width()});
  for (int64_t l = 0; l < engine.config().num_hidden_layers; ++l) {
    cache.read(l, session.pages()[0], rows);
    hash.add({bytes.data(), bytes.size()});
  }
}

}  // namespace

uint64_t prefix_fingerprint(Engine& engine) {
  Hash hash;
  hash.add(write_hf_config(engine.config()));
  ModelWeights weights = engine.model().weights;
  for (const Param& p : parameters(weights)) {
    hash.add(p.name);
    hash.add(std::string(1, static_cast<char>(p.matrix->format)));
    if (p.matrix->data) add_weight(hash, *p.matrix);
  }
  add_rows(hash, engine);
  return hash.value();
}

}  // namespace sluice
