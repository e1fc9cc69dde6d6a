#include "cli/shared_experts.h"

#include <algorithm>
#include <numeric>

#include "cli/ranks.h"
#include "formats/expert_load_json.h"

namespace sluice {
namespace {

/// For every router of the model; MTP modules, which a load that was measured does not name, in order if need be.
std::vector<ExpertRanks::Places> read_places(const std::string& file, const Model& model, int ranks) {
  const ModelPlaces placement = parse_model_places(read_file(file), file);
  if (placement.gpus != ranks) fail("{}: gpus: expected the {} ranks, found {}", file, ranks, placement.gpus);
  std::vector<ExpertRanks::Places> places;
  const auto add = [&](const std::string& name) {
    const auto found = std::find_if(placement.layers.begin(), placement.layers.end(),
                                    [&](const LayerPlaces& l) { return l.layer == name; });
    if (found == placement.layers.end() && name != "MTP")
      fail("{}: layers: expected one \"{}\", found none", file, name);
    if (found != placement.layers.end()) return places.push_back(found->experts);
    places.emplace_back(static_cast<size_t>(model.config.n_routed_experts));
    std::iota(places.back().begin(), places.back().end(), 0);
  };
  for (size_t l = 0; l < model.weights.layers.size(); ++l)
    if (model.weights.layers[l].is_moe) add(fmt::format("{}", l));
  for (const MtpWeights& m : model.weights.mtp)
    if (m.block.is_moe) add("MTP");
  return places;
}

}  // namespace

void prepare_for_ranks(const Communicator& ranks, InferenceOptions& options, SamplingOptions& sampling) {
  if (ranks.size() == 1) return;
  if (options.memory > 0) fail("--memory: expected none with several ranks");
  if (options.device != kAnyDevice && parse_device(options.device).is_cuda())
    fail("--device: expected cpu with several ranks, found {}", options.device);
  options.device = "cpu";
  if (options.threads == 0) options.threads = static_cast<int>(cores_of_a_rank());
  if (sampling.draft == Draft::automatic) sampling.draft = Draft::off;
}

std::unique_ptr<ExpertRanks> share_experts(Communicator& ranks, const Inference& inference,
                                           const std::string& placement) {
  if (ranks.size() == 1) return nullptr;
  std::vector<ExpertRanks::Places> places;
  if (!placement.empty()) places = read_places(placement, *inference.model, ranks.size());
  auto shared = std::make_unique<ExpertRanks>(ranks, inference.model->weights, places);
  inference.engine->share_experts(*shared);
  return shared;
}

}  // namespace sluice
