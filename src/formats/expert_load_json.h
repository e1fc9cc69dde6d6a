// The load of a model's experts, and where they are placed, as JSON, which `sluice balance` writes and reads:
//   {"groups": 8, "gpus": 4, "layers": [{"layer": "3", "load": [120, 98, ...], "physical_to_logical": [0, 5, ...]},
//   ...]}
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

struct LayerPlaces {
  std::string layer;             // as above
  std::vector<int32_t> experts;  // at each place
};

struct ModelPlaces {
  int64_t gpus = 1;  // that share the places
  std::vector<LayerPlaces> layers;
};

/// The same of a placement; indices of experts are from 0 to 65,535.
ModelPlaces parse_model_places(std::string_view text, const std::string& where);

}  // namespace sluice
