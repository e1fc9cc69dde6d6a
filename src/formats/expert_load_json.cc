#include "formats/expert_load_json.h"

#include "base/error.h"
#include "formats/json.h"

namespace sluice {
namespace {

constexpr size_t kMaxLoadValues = 65536;
constexpr uint64_t kMaxTokens = uint64_t{1} << 40;  // sums of 65,536 of these do not overflow

const Json& array(const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) fail("{}: {}: expected an array, found nothing", where, key);
  if (!it->is_array() || it->empty())
    fail("{}: {}: expected an array of some, found {}", where, key, json_excerpt(*it));
  return *it;
}

void check_layer(const Json& layer, const std::string& where) {
  if (!layer.is_object()) fail("{}: expected an object, found {}", where, json_excerpt(layer));
}

LayerLoad parse_layer(const Json& layer, const std::string& where) {
  check_layer(layer, where);
  LayerLoad out{json_string(layer, "layer", where), {}};
  for (const Json& value : array(layer, "load", where)) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxTokens)
      fail("{}: load: expected counts from 0 to 2^40, found {}", where, json_excerpt(value));
    out.tokens.push_back(static_cast<int64_t>(value.get<uint64_t>()));
  }
  return out;
}

LayerPlaces parse_places(const Json& layer, const std::string& where) {
  check_layer(layer, where);
  LayerPlaces out{json_string(layer, "layer", where), {}};
  for (const Json& value : array(layer, "physical_to_logical", where)) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxLoadValues)
      fail("{}: physical_to_logical: expected experts from 0 to {}, found {}", where, kMaxLoadValues - 1,
           json_excerpt(value));
    out.experts.push_back(static_cast<int32_t>(value.get<uint64_t>()));
  }
  return out;
}

}  // namespace

ModelPlaces parse_model_places(std::string_view text, const std::string& where) {
  const Json object = parse_json_object(text, where);
  const uint64_t gpus = json_uint(object, "gpus", where);
  if (gpus < 1 || gpus > kMaxLoadValues) fail("{}: gpus: expected 1 to {}, found {}", where, kMaxLoadValues, gpus);
  ModelPlaces out{static_cast<int64_t>(gpus), {}};
  size_t values = 0;
  for (const Json& layer : array(object, "layers", where)) {
    out.layers.push_back(parse_places(layer, fmt::format("{}: layers[{}]", where, out.layers.size())));
    values += out.layers.back().experts.size();
    if (values > kMaxLoadValues) fail("{}: layers: expected at most {} places", where, kMaxLoadValues);
  }
  return out;
}

ModelLoad parse_model_load(std::string_view text, const std::string& where) {
  const Json object = parse_json_object(text, where);
  ModelLoad out;
  if (object.contains("groups")) {
    const uint64_t groups = json_uint(object, "groups", where);
    if (groups < 1 || groups > kMaxLoadValues)
      fail("{}: groups: expected 1 to {}, found {}", where, kMaxLoadValues, groups);
    out.groups = static_cast<int64_t>(groups);
  }
  size_t values = 0;
  for (const Json& layer : array(object, "layers", where)) {
    out.layers.push_back(parse_layer(layer, fmt::format("{}: layers[{}]", where, out.layers.size())));
    values += out.layers.back().tokens.size();
    if (values > kMaxLoadValues) fail("{}: layers: expected at most {} values of load", where, kMaxLoadValues);
  }
  return out;
}

}  // namespace sluice
