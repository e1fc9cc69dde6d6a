// config.json's fields <-> the metadata of GGUF files of architecture deepseek2 (specification 10.5).
#pragma once
#include "formats/gguf_writer.h"
#include "formats/hf_config.h"

namespace sluice {

/// How a file holds the matrix that expands keys and values (kv_b_proj), and the attention sizes it announces with it.
enum class GgufLayout : uint8_t {
  split,   // attn_k_b, transposed per head, and attn_v_b: what current engines want
  legacy,  // attn_kv_b: what older ones read
};

/// The configuration in the metadata of either layout. num_nextn_predict_layers is what the file announces. Throws
/// Error, one line with file and key: missing, ill-typed or out of range, another architecture, a RoPE scaling other
/// than YaRN; what contradicts another key is named as in config.json.
HfConfig read_gguf_config(const GgufMetadata& metadata);

/// Adds the keys of `general.architecture` and `deepseek2.*` for a file with `mtp_modules` MTP modules. Throws Error
/// naming the field when GGUF has no key for it: experts in every n-th layer, several MTP modules, a YaRN whose mscale
/// is not its mscale_all_dim.
void add_gguf_config(GgufMetadataBuilder& metadata, const HfConfig& config, GgufLayout layout, int64_t mtp_modules);

}  // namespace sluice
