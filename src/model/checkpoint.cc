#include "model/checkpoint.h"

#include <cmath>
#include <cstring>
#include <map>

#include "base/fp8.h"
#include "base/rng.h"
#include "ops/elementwise.h"
#include "ops/quant.h"

namespace sluice {
namespace {

constexpr int64_t kBlockRows = 128;    // FP8 scale blocks must not be split
constexpr int64_t kBlocksAtOnce = 16;  // rows in flight while streaming
constexpr uint64_t kShardBytes = 5ull << 30;

/// Rows [begin, begin + rows) of a matrix as a matrix.
Matrix slice(const Matrix& m, int64_t begin, int64_t rows) {
  Matrix part = m;
  part.rows = rows;
  part.data = m.tensor().at(begin);
  if (m.scales) part.scales = m.scales + begin / kBlockRows * m.scale_cols();
  return part;
}

/// dst = src (float32), rounded or quantised as dst's format says.
void store(Stream& s, const Matrix& dst, const Tensor& src) {
  if (dst.format == Format::fp8_128)
    quantize_weight(s, dst, src, false);
  else
    copy(s, dst.tensor(), src);
}

/// Calls sink(begin, rows, data) with the rows of a parameter in order, a bounded number at a time.
template <class Sink>
void stream_rows(Stream& s, const Param& p, const RowSource& source, Sink&& sink) {
  const int64_t rows = p.matrix->rows, cols = p.matrix->cols, most = kBlockRows * kBlocksAtOnce;
  std::vector<float> buffer(static_cast<size_t>(std::min(rows, most) * cols));
  for (int64_t begin = 0; begin < rows; begin += most) {
    const int64_t n = std::min(most, rows - begin);
    s.pool().run((n + kBlockRows - 1) / kBlockRows, [&](int64_t block, int) {
      const int64_t row = block * kBlockRows;
      source(p, begin + row, std::min(kBlockRows, n - row), buffer.data() + row * cols);
    });
    sink(begin, n, Tensor(buffer.data(), {n, cols}));
  }
}

Format file_format(ParamKind kind, Precision precision) {
  if (kind == ParamKind::router_bias || precision == Precision::f32) return Format::f32;
  return kind == ParamKind::linear && precision == Precision::fp8 ? Format::fp8_128 : Format::bf16;
}

StDType file_dtype(Format format) {
  return format == Format::f32 ? StDType::f32 : format == Format::bf16 ? StDType::bf16 : StDType::f8_e4m3;
}

bool is_vector(ParamKind kind) { return kind == ParamKind::norm || kind == ParamKind::router_bias; }

struct StoredParam {
  std::string name;  // in the file
  Param param;       // what is stored there
  size_t place;      // of the parameter
};

/// All stored parameters: those of the model and the MTP modules' copies of embedding and head.
std::vector<StoredParam> stored_parameters(ModelWeights& w) {
  std::vector<StoredParam> list;
  StoredParam head{"", {"lm_head.weight", &w.head, ParamKind::head}, 0};
  for (const Param& p : parameters(w)) {
    list.push_back({p.name, p, list.size()});
    if (p.kind == ParamKind::head) head.place = list.back().place;
  }
  const StoredParam embed = list.front();
  for (size_t i = 0; i < w.mtp.size(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", w.layers.size() + i);
    list.push_back({prefix + "embed_tokens.weight", embed.param, embed.place});
    list.push_back({prefix + "shared_head.head.weight", head.param, head.place});
  }
  return list;
}

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

const SafetensorsEntry& entry_of_shape(const SafetensorsFolder& files, const std::string& name,
                                       const std::vector<int64_t>& shape) {
  const SafetensorsEntry& e = files.get(name);
  if (e.shape != shape)
    fail("{}: {}: expected shape {} (from config.json), found {}", e.file, name, shape_text(shape),
         shape_text(e.shape));
  return e;
}

/// Float32 rows of a stored tensor, block scales applied.
void read_rows(const SafetensorsEntry& e, const SafetensorsEntry* scale, const Matrix& m, int64_t begin, int64_t rows,
               float* out) {
  e.read_f32(begin * m.cols, std::span(out, static_cast<size_t>(rows * m.cols)));
  if (!scale) return;
  std::vector<float> scales = scale->read_f32();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < m.cols; ++c)
      out[r * m.cols + c] *= scales[static_cast<size_t>((begin + r) / kBlockRows * m.scale_cols() + c / kBlockRows)];
}

/// A parameter's tensor, and its scales where it has codes.
struct StoredTensor {
  const SafetensorsEntry& values;
  const SafetensorsEntry* scale = nullptr;
};

StoredTensor stored_tensor(const SafetensorsFolder& files, const Param& p) {
  const Matrix& m = *p.matrix;
  StoredTensor t{entry_of_shape(files, p.name, is_vector(p.kind) ? std::vector{m.cols} : std::vector{m.rows, m.cols})};
  if (t.values.dtype == StDType::f8_e4m3)
    t.scale = &entry_of_shape(files, p.name + "_scale_inv", {m.scale_rows(), m.scale_cols()});
  return t;
}

void load_param(Stream& s, const SafetensorsFolder& files, const Param& p) {
  const Matrix& m = *p.matrix;
  const auto [e, scale] = stored_tensor(files, p);
  if (scale && m.format == Format::fp8_128) {  // the released codes, bit for bit
    std::memcpy(m.data, e.bytes.data(), e.bytes.size());
    scale->read_f32(0, std::span(m.scales, static_cast<size_t>(m.scale_rows() * m.scale_cols())));
    return;
  }
  stream_rows(s, p, file_rows(files),
              [&](int64_t begin, int64_t n, const Tensor& rows) { store(s, slice(m, begin, n), rows); });
}

/// Writes codes, scales or values of one tensor of the file.
void write_tensor(Stream& s, SafetensorsWriter& writer, const Param& p, Format format, bool scales,
                  const RowSource& source) {
  const int64_t cols = p.matrix->cols;
  Matrix part;
  part.format = format;
  part.cols = cols;
  std::vector<std::byte> bytes;
  std::vector<float> scale;
  stream_rows(s, p, source, [&](int64_t, int64_t n, const Tensor& rows) {
    part.rows = n;
    bytes.resize(part.tensor().bytes());
    scale.resize(static_cast<size_t>(part.scale_rows() * part.scale_cols()));
    part.data = bytes.data();
    part.scales = scale.data();
    store(s, part, rows);
    writer.write(scales ? std::as_bytes(std::span(scale)) : std::span<const std::byte>(bytes));
  });
}

HfConfig stored_config(const HfConfig& config, Precision precision, const ModelWeights& w) {
  HfConfig c = config;
  c.num_nextn_predict_layers = static_cast<int64_t>(w.mtp.size());
  c.torch_dtype = precision == Precision::f32 ? "float32" : "bfloat16";
  c.quantization.reset();
  if (precision == Precision::fp8) c.quantization = HfQuantization{};
  return c;
}

}  // namespace

fs::path resolve_checkpoint(const fs::path& folder) {
  if (fs::exists(folder / "config.json")) return folder;
  if (fs::exists(folder / "latest" / "config.json")) return folder / "latest";
  fail("{}: expected a checkpoint folder with config.json, or a training run with `latest`", folder.string());
}

HfConfig load_config(const fs::path& folder) {
  const fs::path file = folder / "config.json";
  const HfConfig config = parse_hf_config(read_file(file), file.string());
  // Two block sizes can give scales of the same shape, so the shapes alone would not tell.
  if (const auto& q = config.quantization; q && (q->block_rows != kBlockRows || q->block_cols != kBlockRows))
    fail("{}: quantization_config: weight_block_size: expected [{}, {}], found [{}, {}]", file.string(), kBlockRows,
         kBlockRows, q->block_rows, q->block_cols);
  return config;
}

Precision file_precision(const SafetensorsFolder& files) {
  Precision precision = Precision::f32;
  for (const SafetensorsEntry* e : files.entries()) {
    if (e->dtype == StDType::f8_e4m3) return Precision::fp8;
    if (e->dtype == StDType::bf16 || e->dtype == StDType::f16) precision = Precision::bf16;
  }
  return precision;
}

int64_t stored_mtp_modules(const SafetensorsFolder& files, const HfConfig& config) {
  ModelWeights shapes = weight_shapes(config, config.num_nextn_predict_layers);
  const std::string first = fmt::format("model.layers.{}.", config.num_hidden_layers);
  size_t found = 0, expected = 0;
  std::string missing;
  std::vector<Param> list = parameters(shapes);
  for (const Param& p : list) {
    const int layer = std::atoi(p.name.c_str() + std::strlen("model.layers."));
    if (!p.name.starts_with("model.layers.") || layer < config.num_hidden_layers) continue;
    ++expected;
    if (files.find(p.name))
      ++found;
    else if (missing.empty())
      missing = p.name;
  }
  if (found == 0) return 0;
  if (found < expected)
    fail("{}: {}: missing, while other tensors of the MTP module are there", files.path().string(), missing);
  return config.num_nextn_predict_layers;
}

Model load_model(Stream& s, const fs::path& folder, Precision precision) {
  HfConfig config = load_config(folder);
  const SafetensorsFolder files(folder);
  config.num_nextn_predict_layers = stored_mtp_modules(files, config);
  Model m = allocate_model(config, config.num_nextn_predict_layers, precision);
  load_weights(s, folder, m, {});
  return m;
}

void load_weights(Stream& s, const fs::path& folder, Model& m, const ParamMask& held) {
  const SafetensorsFolder files(folder);
  const std::vector<Param> list = parameters(m.weights);
  for (size_t i = 0; i < list.size(); ++i)
    if (is_in(held, i)) load_param(s, files, list[i]);
}

RowSource file_rows(const SafetensorsFolder& files) {
  return [&files](const Param& p, int64_t begin, int64_t rows, float* out) {
    const StoredTensor t = stored_tensor(files, p);
    read_rows(t.values, t.scale, *p.matrix, begin, rows, out);
  };
}

std::vector<FileSum> save_checkpoint(Stream& s, const fs::path& folder, const HfConfig& config, ModelWeights& shapes,
                                     Precision precision, const RowSource& source, const CheckpointPart& part) {
  struct Target {
    Param param;
    Format format;
    bool scales;
  };
  std::vector<SafetensorsSpec> specs;
  std::unordered_map<std::string, Target> targets;
  std::map<std::string, std::string> file_of;  // of all parts
  uint64_t total = 0;
  const auto add = [&](const SafetensorsSpec& spec, const Target& target, size_t place) {
    file_of[spec.name] = shard_name("model", static_cast<size_t>(part.of(place)), static_cast<size_t>(part.parts));
    total += spec.bytes();
    if (!part.has(place)) return;
    specs.push_back(spec);
    targets[spec.name] = target;
  };
  for (const auto& [name, p, place] : stored_parameters(shapes)) {
    const Matrix& m = *p.matrix;
    const Format format = file_format(p.kind, precision);
    add({name, file_dtype(format), is_vector(p.kind) ? std::vector{m.cols} : std::vector{m.rows, m.cols}},
        {p, format, false}, place);
    if (format == Format::fp8_128)
      add({name + "_scale_inv", StDType::f32, {m.scale_rows(), m.scale_cols()}}, {p, format, true}, place);
  }
  const auto write = [&](const SafetensorsSpec& spec, SafetensorsWriter& writer) {
    const Target& t = targets.at(spec.name);
    write_tensor(s, writer, t.param, t.format, t.scales, source);
  };
  std::vector<FileSum> sums;
  if (part.parts == 1) {
    sums = write_safetensors_folder(folder, specs, kShardBytes, write);
  } else if (!specs.empty()) {
    const std::string name = shard_name("model", static_cast<size_t>(part.part), static_cast<size_t>(part.parts));
    sums.push_back(write_safetensors(folder / name, specs, write));
  }
  if (part.part > 0) return sums;
  if (part.parts > 1) sums.push_back(write_safetensors_index(folder, "model", file_of, total));
  write_file(folder / "config.json", write_hf_config(stored_config(config, precision, shapes)));
  sums.push_back(sum_file(folder, "config.json"));
  return sums;
}

RowSource stored_rows() {
  return [](const Param& p, int64_t begin, int64_t rows, float* out) {
    const Matrix m = slice(*p.matrix, begin, rows);
    const int64_t n = m.size();
    if (m.format == Format::f32) std::memcpy(out, m.data, static_cast<size_t>(n) * sizeof(float));
    if (m.format == Format::bf16)
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(static_cast<const bf16*>(m.data)[i]);
    if (m.format != Format::fp8_128) return;
    const auto& value = e4m3_table();
    for (int64_t i = 0; i < n; ++i)
      out[i] = value[static_cast<const uint8_t*>(m.data)[i]] *
               m.scales[i / m.cols / kBlockRows * m.scale_cols() + i % m.cols / kBlockRows];
  };
}

RowSource random_rows(const HfConfig& config, uint64_t seed) {
  const double std_dev = config.initializer_range;
  return [std_dev, seed](const Param& p, int64_t begin, int64_t rows, float* out) {
    const int64_t n = rows * p.matrix->cols, first = begin * p.matrix->cols;
    if (is_vector(p.kind)) {
      std::fill_n(out, n, p.kind == ParamKind::norm ? 1.0f : 0.0f);
      return;
    }
    uint64_t stream = 14695981039346656037ull;  // FNV-1a of the name, so that no tensor depends on the others
    for (const char ch : p.name) stream = (stream ^ static_cast<unsigned char>(ch)) * 1099511628211ull;
    Rng rng(seed, stream);
    for (int64_t i = 0; i < n; ++i) {
      rng.set_counter(2 * static_cast<uint64_t>(first + i));
      out[i] = static_cast<float>(std_dev * rng.normal());
    }
  };
}

void fill_model(Stream& s, Model& m, const RowSource& source, const ParamMask& held) {
  const std::vector<Param> list = parameters(m.weights);
  for (size_t i = 0; i < list.size(); ++i)
    if (is_in(held, i))
      stream_rows(s, list[i], source, [&](int64_t begin, int64_t n, const Tensor& rows) {
        store(s, slice(*list[i].matrix, begin, n), rows);
      });
}

}  // namespace sluice
