// What quantize, convert and init share: a model written as a folder or as a GGUF file.
#pragma once
#include <string>

#include "convert/gguf_write.h"
#include "convert/source.h"

namespace sluice {

/// Whether a name on the command line means a GGUF file.
bool is_gguf_name(const fs::path& out);

/// Throws Error unless `out` is a folder that can be made or is empty.
void make_empty_folder(const fs::path& out);

/// The format of that name. Throws Error.
Format checked_format(const std::string& name);
/// The same of a checkpoint folder: f32, bf16 or fp8.
Precision checked_precision(const std::string& name);
/// Their names, for --help.
std::string format_names();

/// Writes with a progress line (named after `command`), then prints path, bytes and bits per weight.
void write_gguf_file(Stream& s, const std::string& command, const fs::path& out, const GgufModelInfo& info,
                     Format format, const RowEncoder& rows);

/// The same for a folder in the Hugging Face layout, which must not exist or be empty, with the tokenizer and
/// generation_config.json of the source.
void write_folder(Stream& s, const std::string& command, const fs::path& out, const CheckpointSource& source,
                  Precision precision);

}  // namespace sluice
