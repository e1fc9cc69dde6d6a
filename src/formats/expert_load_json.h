// The load of a model's experts as JSON, which `sluice balance` writes and reads:
//   {"groups": 8, "layers": [{"layer": "3", "load": [120, 98, ...]}, ...]}
// with other keys beside these.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

struct LayerLoad {
  std::string layer;            // "3": index of the block; "MTP"
  std::vector<int64_t> tokens;  // per expert; at least one
};

struct ModelLoad {
  int64_t groups = 1;  // of experts (n_group)
  std::vector<LayerLoad> layers;
};

/// Reads such an object; "groups" may be missing. Throws Error "where: field: expected ..., found ..." for anything
/// else, for no layers, and for more than 65,536 values of load.
ModelLoad parse_model_load(std::string_view text, const std::string& where);

}  // namespace sluice
