#include "engine/gpu_weights.h"

#include <vector>

#include "base/fp8.h"
#include "base/transfer.h"
#include "engine/fused_block.h"
#include "engine/memory_plan.h"
#include "ops/block_format.h"
#include "ops/block_quant.h"
#include "ops/packed.h"

namespace sluice {
namespace {

/// Rows of the embedding that are converted at a time.
constexpr int64_t kPieceRows = 1024;

bool is_copied(const Param& p) { return p.kind != ParamKind::norm && p.matrix->rows > 0; }

/// Whether it only enters products, but for kv_b, whose halves the engine multiplies by apart.
bool is_packed(const Param& p) {
  return p.kind != ParamKind::embedding && p.kind != ParamKind::router_bias && !p.name.ends_with("kv_b_proj.weight");
}

/// Gives every matrix that is copied its place in `a`, as the arena's device wants it.
void place(ModelWeights& w, Arena& a) {
  for (const Param& p : parameters(w)) {
    if (!is_copied(p)) continue;
    Matrix& m = *p.matrix;
    const Format format = packed_format(m.format, a.device());
    if (!is_packed(p)) {
      m.scales = nullptr;
      allocate(m, format == Format::fp8_128 ? Format::bf16 : format, a);
      continue;
    }
    const size_t bytes = packed_bytes(format, m.rows, m.cols, a.device());
    m.data = a.alloc(DType::u8, {static_cast<int64_t>(bytes)}).data;
    m.scales = nullptr;  // behind the codes
    m.format = format;
  }
}

std::vector<const BlockWeights*> blocks_of(const ModelWeights& w) {
  std::vector<const BlockWeights*> blocks;
  for (const BlockWeights& b : w.layers) blocks.push_back(&b);
  for (const MtpWeights& m : w.mtp) blocks.push_back(&m.block);
  return blocks;
}

/// Memory in `a` for the heads of a block's kv_b; empty where the fused ops are not for it.
Tensor place_heads(const BlockWeights& b, const HfConfig& c, Arena& a) {
  if (!has_fused_ops(b, c, a.device())) return {};
  return a.alloc(DType::u8, {static_cast<int64_t>(packed_heads_bytes(latent_shape(c)))});
}

/// Row `i` of a matrix in FP8 or a block format.
void decode_row(const Matrix& w, int64_t i, float* out) {
  if (w.format != Format::fp8_128)
    return dequantize_row(static_cast<const std::byte*>(w.data) + i * row_bytes(w.format, w.cols), w.format, w.cols,
                          out);
  const uint8_t* code = static_cast<const uint8_t*>(w.data) + i * w.cols;
  const float* scale = w.scales + i / 128 * w.scale_cols();
  for (int64_t k = 0; k < w.cols; ++k) out[k] = e4m3_to_f32(code[k]) * scale[k / 128];
}

/// A matrix in FP8 or a block format as bf16.
void upload_decoded(Stream& s, const Matrix& to, const Matrix& from) {
  std::vector<bf16> values(static_cast<size_t>(kPieceRows * from.cols));
  for (int64_t begin = 0; begin < from.rows; begin += kPieceRows) {
    const int64_t rows = std::min(kPieceRows, from.rows - begin);
    parallel_for(s, rows, 1, [&](int64_t i, int64_t, int thread) {
      float* row = s.scratch(thread, static_cast<size_t>(from.cols));
      decode_row(from, begin + i, row);
      for (int64_t k = 0; k < from.cols; ++k) values[static_cast<size_t>(i * from.cols + k)] = bf16(row[k]);
    });
    upload(s, to.tensor().slice_rows(begin, rows), Tensor(values.data(), DType::bf16, {rows, from.cols}));
  }
}

void upload_matrix(Stream& s, const Matrix& to, const Matrix& from) {
  if (to.format != from.format) return upload_decoded(s, to, from);
  upload(s, to.tensor(), from.tensor());
}

void check_bank(ExpertBank w) {
  const auto address = [&](size_t e) { return static_cast<const std::byte*>(w[e].data); };
  for (size_t e = 1; e < w.size(); ++e)
    if (w[e].format != w[0].format || address(e) - address(e - 1) != address(1) - address(0))
      fail("experts: expected one format for those of a layer on a GPU, found {} and {}", format_name(w[0].format),
           format_name(w[e].format));
}

}  // namespace

ModelWeights GpuWeights::shapes(const ModelWeights& w, const Device& gpu) {
  ModelWeights out = w;
  Arena counting = Arena::counting(gpu);
  place(out, counting);
  return out;
}

size_t GpuWeights::bytes(const ModelWeights& w, const HfConfig& config, const Device& gpu) {
  ModelWeights out = w;
  Arena counting = Arena::counting(gpu);
  place(out, counting);
  for (const BlockWeights* b : blocks_of(out)) place_heads(*b, config, counting);
  return counting.peak_bytes();
}

GpuWeights::GpuWeights(Stream& s, const Model& model)
    : weights_(model.weights), memory_(bytes(model.weights, model.config, s.device()), s.device()) {
  ModelWeights host = model.weights;
  place(weights_, memory_);
  const std::vector<Param> from = parameters(host), to = parameters(weights_);
  for (size_t i = 0; i < from.size(); ++i) {
    if (!is_copied(from[i])) continue;
    const Matrix& m = *to[i].matrix;
    if (is_packed(from[i]))
      pack_matrix(s, {static_cast<std::byte*>(m.data), m.format, m.rows, m.cols}, *from[i].matrix);
    else
      upload_matrix(s, m, *from[i].matrix);
  }
  for (const BlockWeights* b : blocks_of(weights_)) {
    for (const auto* bank : {&b->moe.gate, &b->moe.up, &b->moe.down}) check_bank(*bank);
    if (const Tensor room = place_heads(*b, model.config, memory_))
      heads_[b->mla.kv_b.data] =
          pack_heads(s, static_cast<std::byte*>(room.data), b->mla.kv_b, latent_shape(model.config));
  }
}

const PackedHeads* GpuWeights::heads(const BlockWeights& block) const {
  const auto found = heads_.find(block.mla.kv_b.data);
  return found == heads_.end() ? nullptr : &found->second;
}

}  // namespace sluice
