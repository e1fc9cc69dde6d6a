#include "cli/expert_loads.h"

#include <deque>

#include "base/file.h"
#include "cli/text_pieces.h"
#include "engine/expert_counter.h"
#include "model/checkpoint.h"
#include "train/metrics.h"

namespace sluice {

ModelLoad measure_load(const InferenceOptions& options, const std::string& data) {
  const Inference inference = open_inference(options);
  const HfConfig& config = inference.engine->config();
  ExpertCounter counter(*inference.model);
  if (counter.load().empty()) fail("{}: expected a model with experts, found none", inference.path.string());
  std::vector<int32_t> ids;
  inference.need_tokenizer().encode(read_file(data), false, ids);
  if (ids.size() < 2) fail("{}: expected at least 2 tokens, found {}", data, ids.size());
  inference.engine->observe_routing([&](const Tensor& choice, const Matrix& router) { counter.add(choice, router); });
  read_in_pieces(inference, ids, "balance");
  ModelLoad out{config.n_group, {}};
  for (ExpertLoad& load : counter.load())
    out.layers.push_back(
        {load.layer < config.num_hidden_layers ? fmt::format("{}", load.layer) : "MTP", std::move(load.tokens)});
  return out;
}

ModelLoad run_load(const std::string& run, int64_t steps) {
  std::vector<std::string> names;
  std::deque<std::vector<std::vector<int64_t>>> last;
  read_metrics(run, [&](const MetricsLine& line) {
    if (const auto* info = std::get_if<RunInfo>(&line)) names = info->expert_layers;
    const auto* step = std::get_if<StepMetrics>(&line);
    if (!step || step->expert_load.empty()) return;
    last.push_back(step->expert_load);
    if (static_cast<int64_t>(last.size()) > steps) last.pop_front();
  });
  if (last.empty()) fail("{}: expected steps with a load of experts in metrics.jsonl, found none", run);
  ModelLoad out{load_config(resolve_checkpoint(run)).n_group, {}};
  for (const std::string& name : names) out.layers.push_back({name, {}});
  for (const auto& load : last) {
    if (load.size() != names.size())
      fail("{}: metrics.jsonl: expected the load of {} layers, found {}", run, names.size(), load.size());
    for (size_t l = 0; l < load.size(); ++l) {
      std::vector<int64_t>& sum = out.layers[l].tokens;
      if (sum.empty()) sum.resize(load[l].size());
      if (load[l].size() != sum.size())
        fail("{}: metrics.jsonl: expected {} experts in layer {}, found {}", run, sum.size(), names[l], load[l].size());
      for (size_t e = 0; e < sum.size(); ++e) sum[e] += load[l][e];
    }
  }
  return out;
}

}  // namespace sluice
