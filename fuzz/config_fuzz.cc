// Reads arbitrary bytes as config.json, generation_config.json, measurements, a line of JSONL and a load of experts.
// What is accepted of the first two must survive being written and read again.
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "formats/expert_load_json.h"
#include "formats/hf_config.h"
#include "formats/json_lines.h"
#include "formats/measurements.h"

namespace {

template <class F>
void accept_errors(F&& fn) {
  try {
    fn();
  } catch (const sluice::Error& e) {
    if (std::string_view(e.what()).find('\n') != std::string_view::npos) __builtin_trap();  // messages are one line
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  accept_errors([&] {
    const sluice::HfConfig c = sluice::parse_hf_config(text, "f");
    if (!(sluice::parse_hf_config(sluice::write_hf_config(c), "g") == c)) __builtin_trap();
  });
  accept_errors([&] {
    const sluice::HfGeneration g = sluice::parse_hf_generation(text, "f");
    if (!(sluice::parse_hf_generation(sluice::write_hf_generation(g), "g") == g)) __builtin_trap();
  });
  accept_errors([&] { sluice::parse_measurements(text, "f"); });
  accept_errors([&] { sluice::parse_json_record(text, "f", 1); });
  accept_errors([&] {
    const sluice::ModelLoad load = sluice::parse_model_load(text, "f");
    if (load.groups < 1 || load.layers.empty()) __builtin_trap();
    for (const sluice::LayerLoad& layer : load.layers)
      if (layer.tokens.empty()) __builtin_trap();
  });
  return 0;
}
