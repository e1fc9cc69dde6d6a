// Where `sluice balance` has the load of experts from.
#pragma once
#include <string>

#include "cli/inference.h"
#include "formats/expert_load_json.h"

namespace sluice {

/// Counts how often each expert is chosen while a model reads the text of the file `data`. Throws Error for a model
/// without experts and a text of fewer than two tokens.
ModelLoad measure_load(const InferenceOptions& options, const std::string& data);

/// The sum over the last `steps` steps that a training run has recorded. Throws Error when there are none.
ModelLoad run_load(const std::string& run, int64_t steps);

}  // namespace sluice
