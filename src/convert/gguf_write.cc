#include "convert/gguf_write.h"

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>

#include "base/error.h"
#include "base/rng.h"
#include "convert/gguf_config.h"
#include "convert/gguf_tokenizer.h"
#include "ops/block_quant.h"

namespace sluice {
namespace {

using Content = GgufOutput::Content;

constexpr int64_t kBlockRows = 128;          // of a task
constexpr int64_t kBatchBytes = 64ll << 20;  // written at once
constexpr int64_t kPieceCols = 256, kPieces = 1 << 14;

/// general.file_type: what most of the file is in.
uint32_t file_type(Format format) {
  constexpr std::array<std::pair<Format, uint32_t>, 14> kTypes = {{{Format::f32, 0},
                                                                   {Format::f16, 1},
                                                                   {Format::q4_0, 2},
                                                                   {Format::q4_1, 3},
                                                                   {Format::q8_0, 7},
                                                                   {Format::q5_0, 8},
                                                                   {Format::q5_1, 9},
                                                                   {Format::q2_k, 10},
                                                                   {Format::q3_k, 11},
                                                                   {Format::q4_k, 14},
                                                                   {Format::q5_k, 16},
                                                                   {Format::q6_k, 18},
                                                                   {Format::iq4_nl, 25},
                                                                   {Format::bf16, 32}}};
  for (const auto& [f, number] : kTypes)
    if (f == format) return number;
  throw_bug("file_type: expected a format of GGUF files", __FILE__, __LINE__);
}

/// Rows of a task: of the halves of kv_b a head, because the transpose reads all of it.
int64_t task_rows(const GgufOutput& t) {
  return t.content == Content::matrices ? std::min(kBlockRows, t.rows()) : t.rows();
}

/// Float32 rows of a tensor of the file.
std::vector<float> tensor_rows(const HfConfig& c, const RowSource& source, const GgufOutput& t, int64_t index,
                               int64_t begin, int64_t rows) {
  const int64_t cols = t.cols();
  std::vector<float> out(static_cast<size_t>(rows * cols));
  if (t.content == Content::matrices) {
    source(t.params[static_cast<size_t>(index)], begin, rows, out.data());
    return out;
  }
  const int64_t nope = c.qk_nope_head_dim, head = index * (nope + c.v_head_dim);
  if (t.content == Content::values) {
    source(t.params[0], head + nope + begin, rows, out.data());
    return out;
  }
  const int64_t C = c.kv_lora_rank;
  std::vector<float> keys(static_cast<size_t>(nope * C));
  source(t.params[0], head, nope, keys.data());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < nope; ++i)
      out[static_cast<size_t>(r * nope + i)] = keys[static_cast<size_t>(i * C + begin + r)];
  return out;
}

/// Pieces of random rows in a block format, made when first needed.
class PiecePool {
 public:
  PiecePool(double std_dev, uint64_t seed) : std_dev_(std_dev), seed_(seed) {}

  const std::byte* piece(Format format, uint64_t index) {
    std::vector<std::byte>& pieces = pieces_[static_cast<size_t>(format)];
    std::call_once(made_[static_cast<size_t>(format)], [&] {
      pieces.resize(static_cast<size_t>(kPieces * row_bytes(format, kPieceCols)));
      Rng rng(seed_);
      std::array<float, kPieceCols> x;
      for (int64_t i = 0; i < kPieces; ++i) {
        for (float& v : x) v = static_cast<float>(std_dev_ * rng.normal());
        quantize_row(x.data(), format, kPieceCols, nullptr, pieces.data() + i * row_bytes(format, kPieceCols));
      }
    });
    return pieces.data() + static_cast<int64_t>(index % kPieces) * row_bytes(format, kPieceCols);
  }

 private:
  static constexpr size_t kFormats = 16;
  double std_dev_;
  uint64_t seed_;
  std::array<std::once_flag, kFormats> made_;
  std::array<std::vector<std::byte>, kFormats> pieces_;
};

GgufMetadataBuilder metadata_of(const GgufModelInfo& info, Format format) {
  GgufMetadataBuilder metadata;
  add_gguf_config(metadata, info.config, GgufLayout::split, info.config.num_nextn_predict_layers);
  metadata.add("general.type", "model").add("general.file_type", file_type(format));
  if (is_block_format(format)) metadata.add("general.quantization_version", uint32_t{2});
  add_gguf_tokenizer(metadata, info.tokenizer, info.config);
  return metadata;
}

/// Writes one tensor: batches of tasks, each of rows of one matrix.
void write_tensor(Stream& s, GgufWriter& writer, const GgufOutput& t, const RowEncoder& encode) {
  const int64_t bytes = row_bytes(t.format, t.cols()), step = task_rows(t);
  const int64_t per_matrix = (t.rows() + step - 1) / step, tasks = per_matrix * t.matrices();
  const int64_t batch = std::max<int64_t>(1, kBatchBytes / (step * bytes));
  std::vector<std::vector<std::byte>> pieces;
  for (int64_t first = 0; first < tasks; first += batch) {
    pieces.resize(static_cast<size_t>(std::min(batch, tasks - first)));
    s.pool().run(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
      const int64_t index = (first + i) / per_matrix, begin = (first + i) % per_matrix * step;
      const int64_t rows = std::min(step, t.rows() - begin);
      pieces[static_cast<size_t>(i)].resize(static_cast<size_t>(rows * bytes));
      encode(t, index, begin, rows, pieces[static_cast<size_t>(i)].data());
    });
    for (const std::vector<std::byte>& piece : pieces) writer.write(piece);
  }
}

}  // namespace

RowEncoder rounded_rows(const HfConfig& config, const RowSource& source, const Importance* importance) {
  return [=](const GgufOutput& t, int64_t index, int64_t begin, int64_t rows, std::byte* out) {
    const std::vector<float> x = tensor_rows(config, source, t, index, begin, rows);
    std::vector<float> weight;
    if (importance) weight = importance->find(t.spec.name, index, t.matrices(), t.cols());
    for (int64_t r = 0; r < rows; ++r)
      quantize_row(x.data() + r * t.cols(), t.format, t.cols(), weight.empty() ? nullptr : weight.data(),
                   out + r * row_bytes(t.format, t.cols()));
  };
}

RowEncoder random_encoder(const HfConfig& config, uint64_t seed) {
  const auto pool = std::make_shared<PiecePool>(config.initializer_range, seed);
  return [=, plain = rounded_rows(config, random_rows(config, seed), nullptr)](
             const GgufOutput& t, int64_t index, int64_t begin, int64_t rows, std::byte* out) {
    if (!is_block_format(t.format)) return plain(t, index, begin, rows, out);
    uint64_t stream = 14695981039346656037ull;  // FNV-1a of the name
    for (const char c : t.spec.name) stream = (stream ^ static_cast<unsigned char>(c)) * 1099511628211ull;
    Rng rng(seed, stream);
    const int64_t across = (t.cols() + kPieceCols - 1) / kPieceCols;
    for (int64_t r = 0; r < rows; ++r) {
      rng.set_counter(static_cast<uint64_t>((index * t.rows() + begin + r) * across));
      for (int64_t col = 0; col < t.cols(); col += kPieceCols) {
        const int64_t bytes = row_bytes(t.format, std::min(kPieceCols, t.cols() - col));
        std::copy_n(pool->piece(t.format, rng.next()), bytes, out);
        out += bytes;
      }
    }
  };
}

void write_gguf(Stream& s, const fs::path& path, const GgufModelInfo& info, Format format, const RowEncoder& rows) {
  ModelWeights shapes = weight_shapes(info.config, info.config.num_nextn_predict_layers);
  const std::vector<GgufOutput> outputs = gguf_outputs(shapes, info.config, format);
  std::vector<GgufSpec> specs;
  uintmax_t bytes = 0;
  for (const GgufOutput& t : outputs) {
    specs.push_back(t.spec);
    bytes += t.spec.bytes();
  }
  const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (fs::is_directory(folder) && fs::space(folder).available < bytes)
    fail("{}: the tensors take {} bytes, the disk has {}", path.string(), bytes, fs::space(folder).available);
  GgufWriter writer(path, metadata_of(info, format), std::move(specs));
  for (const GgufOutput& t : outputs) write_tensor(s, writer, t, rows);
  writer.commit();
}

}  // namespace sluice
