#include "cli/write_model.h"

#include "base/error.h"
#include "cli/work_line.h"
#include "formats/checksums.h"
#include "model/size.h"
#include "ops/block_format.h"

namespace sluice {
namespace {

constexpr Format kFormats[] = {Format::f32,  Format::f16,    Format::bf16, Format::q8_0, Format::q6_k,
                               Format::q5_k, Format::q5_1,   Format::q5_0, Format::q4_k, Format::q4_1,
                               Format::q4_0, Format::iq4_nl, Format::q3_k, Format::q2_k};

int64_t num_weights(const HfConfig& c) {
  const ModelSize size = model_size(c, c.num_nextn_predict_layers);
  return size.main + size.mtp;
}

void print_result(const fs::path& out, int64_t bytes, int64_t weights) {
  fmt::print("{}: {} parameters, {} bytes, {:.2f} bits each\n", out.string(), weights, bytes,
             8.0 * static_cast<double>(bytes) / static_cast<double>(weights));
}

void copy_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "tiktoken.model", "generation_config.json"})
    if (fs::exists(from / name)) write_file(to / name, read_file(from / name));
}

}  // namespace

bool is_gguf_name(const fs::path& out) { return out.extension() == ".gguf"; }

void make_empty_folder(const fs::path& out) {
  if (fs::exists(out) && (!fs::is_directory(out) || !fs::is_empty(out)))
    fail("{}: expected a folder that does not exist or is empty", out.string());
  std::error_code error;
  fs::create_directories(out, error);
  if (error) fail("{}: expected a folder that can be made, found: {}", out.string(), error.message());
}

std::string format_names() {
  std::string list;
  for (const Format f : kFormats) list.append(list.empty() ? "" : ", ").append(format_name(f));
  return list;
}

Format checked_format(const std::string& name) {
  const auto format = parse_format(name);
  if (!format || *format == Format::fp8_128) fail("--type: expected {}, found {:?}", format_names(), name);
  return *format;
}

Precision checked_precision(const std::string& name) {
  if (name == "f32") return Precision::f32;
  if (name == "bf16") return Precision::bf16;
  if (name == "fp8") return Precision::fp8;
  fail("--type: expected f32, bf16 or fp8 for a folder (a name that ends in .gguf has more types), found {:?}", name);
}

void write_gguf_file(Stream& s, const std::string& command, const fs::path& out, const GgufModelInfo& info,
                     Format format, const RowEncoder& rows) {
  const int64_t weights = num_weights(info.config);
  {
    WorkLine line(command, "weights", weights);
    write_gguf(s, out, info, format,
               [&](const GgufOutput& t, int64_t index, int64_t begin, int64_t n, std::byte* bytes) {
                 rows(t, index, begin, n, bytes);
                 line.add(n * t.cols());
               });
  }
  print_result(out, static_cast<int64_t>(fs::file_size(out)), weights);
}

void write_folder(Stream& s, const std::string& command, const fs::path& out, const CheckpointSource& source,
                  Precision precision) {
  const HfConfig& c = source.config;
  make_empty_folder(out);
  const int64_t bytes = stored_bytes(c, c.num_nextn_predict_layers, precision).total();
  if (fs::space(out).available < static_cast<uintmax_t>(bytes))
    fail("{}: the checkpoint takes {} bytes, the disk has {}", out.string(), bytes, fs::space(out).available);
  ModelWeights shapes = weight_shapes(c, c.num_nextn_predict_layers);
  const ModelSize size = model_size(c, c.num_nextn_predict_layers);
  {
    // Codes and scales are written one after the other, so that FP8 reads nearly everything twice.
    WorkLine line(command, "weights", (precision == Precision::fp8 ? 2 : 1) * (size.main + size.mtp + size.mtp_copies));
    write_checksums(
        out, save_checkpoint(s, out, c, shapes, precision, [&](const Param& p, int64_t begin, int64_t rows, float* x) {
          source.rows(p, begin, rows, x);
          line.add(rows * p.matrix->cols);
        }));
  }
  if (!source.is_gguf && !source.path.empty()) copy_files(source.path, out);
  if (source.is_gguf && source.tokenizer) save_tokenizer(out, source.tokenizer->file, source.tokenizer->config);
  print_result(out, bytes, size.main + size.mtp);
}

}  // namespace sluice
