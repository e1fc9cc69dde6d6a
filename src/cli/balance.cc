// sluice balance: on which GPUs the experts of a model and copies of the busy ones belong, by a measured load.
#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <vector>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/expert_loads.h"
#include "parallel/expert_placement.h"

namespace sluice {
namespace {

constexpr int64_t kMost = 65536;

struct Arguments {
  InferenceOptions inference;
  std::string data, run, load, out;
  int64_t steps = 100, gpus = 0, nodes = 1, redundant = 0;
  std::optional<int64_t> groups;  // none: what comes with the load
  bool json = false;
};

/// A layer, and the largest load of a GPU over the mean: with the experts in order, and as placed.
struct Balanced {
  const LayerLoad* load;
  ExpertPlacement placement;
  double before = 0, after = 0;
};

PlacementShape shape_of(const Arguments& a, const ModelLoad& load, size_t experts) {
  return {.replicas = static_cast<int64_t>(experts) + a.redundant,
          .groups = a.groups.value_or(load.groups),
          .nodes = a.nodes,
          .gpus = a.gpus};
}

Balanced balance(const Arguments& a, const ModelLoad& model, const LayerLoad& layer) {
  if (std::all_of(layer.tokens.begin(), layer.tokens.end(), [](int64_t n) { return n == 0; }))
    fail("layer {}: expected a load of experts, found none", layer.layer);
  Balanced b{&layer, place_experts(layer.tokens, shape_of(a, model, layer.tokens.size()))};
  b.before = max_over_mean(gpu_load_in_order(layer.tokens, a.gpus));
  b.after = max_over_mean(gpu_load(layer.tokens, b.placement, a.gpus));
  return b;
}

const char* policy(const PlacementShape& shape) { return shape.is_hierarchical() ? "hierarchical" : "global"; }

/// What `--load` reads back, and the placement.
std::string to_json(const Arguments& a, const ModelLoad& model, const std::vector<Balanced>& layers) {
  const PlacementShape shape = shape_of(a, model, model.layers.front().tokens.size());
  std::vector<JsonObject> list;
  for (const Balanced& b : layers)
    list.push_back(JsonObject()
                       .add("layer", b.load->layer)
                       .add("load", b.load->tokens)
                       .add("physical_to_logical", b.placement.physical_to_logical)
                       .add("max_over_mean_in_order", b.before)
                       .add("max_over_mean", b.after));
  return JsonObject()
             .add("gpus", a.gpus)
             .add("nodes", a.nodes)
             .add("groups", shape.groups)
             .add("redundant", a.redundant)
             .add("placement", policy(shape))
             .add("layers", list)
             .str() +
         "\n";
}

std::string to_table(const Arguments& a, const ModelLoad& model, const std::vector<Balanced>& layers) {
  const size_t experts = model.layers.front().tokens.size();
  std::string text =
      fmt::format("experts {}, redundant {}, GPUs {}, nodes {}, {} placement; largest over mean load of a GPU:\n",
                  experts, a.redundant, a.gpus, a.nodes, policy(shape_of(a, model, experts)));
  text += fmt::format("{:>8} {:>10} {:>10}\n", "layer", "in order", "placed");
  const auto row = [&](const std::string& name, double before, double after) {
    fmt::format_to(std::back_inserter(text), "{:>8} {:10.3f} {:10.3f}\n", name, before, after);
  };
  double before = 0, after = 0;
  for (const Balanced& b : layers) {
    row(b.load->layer, b.before, b.after);
    before += b.before, after += b.after;
  }
  const double n = static_cast<double>(layers.size());
  row("mean", before / n, after / n);
  return text;
}

ModelLoad read_load(const Arguments& a) {
  if (!a.run.empty()) return run_load(a.run, a.steps);
  if (!a.load.empty()) return parse_model_load(read_file(a.load), a.load);
  return measure_load(a.inference, a.data);
}

void run_balance(const Arguments& a) {
  const ModelLoad model = read_load(a);
  std::vector<Balanced> layers;
  for (const LayerLoad& layer : model.layers) {
    if (layer.tokens.size() != model.layers.front().tokens.size())
      fail("layer {}: expected {} experts as in the first layer, found {}", layer.layer,
           model.layers.front().tokens.size(), layer.tokens.size());
    layers.push_back(balance(a, model, layer));
  }
  const std::string json = to_json(a, model, layers);
  if (!a.out.empty()) write_file(a.out, json);
  write_out(a.json ? json : to_table(a, model, layers));
}

}  // namespace

void add_balance_command(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  a->inference.context = 512;
  CLI::App* c = app.add_subcommand("balance", "Place a model's experts, and copies of the busy ones, on GPUs");
  add_inference_options(*c, a->inference);
  add_device_option(*c, a->inference);
  CLI::Option* model = c->get_option("--model")->required(false);
  CLI::Option* data = c->add_option("--data", a->data, "with --model: a text on which the load is measured");
  CLI::Option* run = c->add_option("--run", a->run, "or the load that this training run has recorded");
  CLI::Option* load = c->add_option("--load", a->load, "or the load in this file, which --out wrote");
  model->needs(data);
  data->needs(model);
  run->excludes(model)->excludes(load);
  load->excludes(model);
  const auto count = [&](const char* name, int64_t& value, int64_t least, const char* text) {
    return c->add_option(name, value, text)->check(CLI::Range(least, kMost))->capture_default_str();
  };
  count("--steps", a->steps, 1, "with --run: its last steps, so many")->needs(run);
  count("--gpus", a->gpus, 1, "GPUs that share the experts of a layer, of all nodes")->required();
  count("--nodes", a->nodes, 1, "nodes that these belong to");
  count("--redundant", a->redundant, 0, "copies beside the experts, of all GPUs together");
  c->add_option("--groups", a->groups,
                "groups of experts: each stays on a node where the nodes divide their number (default: the model's)")
      ->check(CLI::Range(int64_t{1}, kMost));
  c->add_option("--out", a->out, "write load and placement to this JSON file");
  c->add_flag("--json", a->json, "print the same as one JSON object");
  c->footer("Example: sluice balance --model out/demo --data text.txt --gpus 8 --redundant 8 --out placement.json");
  c->callback([a, model, run, load] {
    if (model->count() + run->count() + load->count() == 0)
      fail("balance: expected --model and --data, --run or --load");
    run_balance(*a);
  });
}

}  // namespace sluice
