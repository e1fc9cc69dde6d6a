// sluice train: options, YAML and key=value pairs -> TrainConfig; then the run.
#include <algorithm>
#include <map>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/sample.h"
#include "cli/stop_signals.h"
#include "cli/yaml_config.h"
#include "formats/json_lines.h"
#include "train/trainer.h"

namespace sluice {
namespace {

struct TrainOptions {
  TrainConfig config;
  std::string file, resume;
  std::vector<std::string> pairs;
  bool dry_run = false, json = false;
  bool from_start = false;  // `resume` names a run that was killed before its first checkpoint
  std::map<std::string, std::vector<std::string>> given;  // from long options
};

/// `--data a.txt lr=1e-3`: the list option takes the pair too; give it back.
void move_pairs(TrainOptions& o) {
  for (const char* key : {"data", "eval"}) {
    std::vector<std::string>& list = o.given[key];
    const auto is_pair = [&](const std::string& text) {
      bool known = false;
      const std::string name = text.substr(0, text.find('='));
      o.config.visit([&](const std::string& field, auto&) { known |= field == name && name != text; });
      const std::string value = known ? text.substr(name.size() + 1) : "";
      const bool is_weight = !value.empty() && value.find_first_not_of("0123456789.e+-") == std::string::npos;
      return known && !(is_weight && fs::exists(name)) && !fs::exists(text);
    };
    std::copy_if(list.begin(), list.end(), std::back_inserter(o.pairs), is_pair);
    std::erase_if(list, is_pair);
  }
  std::erase_if(o.given, [](const auto& item) { return item.second.empty(); });
}

void resolve(TrainOptions& o) {
  move_pairs(o);
  if (!o.resume.empty()) {
    if (o.given.contains("out")) fail("--resume: expected no --out, the run goes on in its own folder");
    std::vector<std::string> problems;
    const std::optional<fs::path> checkpoint = find_good_checkpoint(o.resume, problems);
    const fs::path begun = fs::path(o.resume) / kRunConfig;
    o.from_start = !checkpoint && problems.empty() && fs::exists(begun);
    if (!checkpoint && !o.from_start)
      fail("{}: no checkpoint to resume from{}", o.resume, problems.empty() ? "" : "; " + problems[0]);
    read_yaml(o.config, o.from_start ? begun : *checkpoint / "trainer/config.yaml");
    o.config.out = o.resume;
  }
  if (!o.file.empty()) read_yaml(o.config, o.file);
  for (const auto& [key, values] : o.given) {
    if (values.size() > 1 || key == "data" || key == "eval") {
      YAML::Node list(YAML::NodeType::Sequence);
      for (const std::string& v : values) list.push_back(v);
      set_key(o.config, key, list, "command line");
    } else {
      set_key(o.config, key, YAML::Node(values.at(0)), "command line");
    }
  }
  for (const std::string& pair : o.pairs) set_pair(o.config, pair);
}

/// A folder that goes away with the object; none unless `wanted`.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(bool wanted) {
    if (!wanted) return;
    std::string name = (fs::temp_directory_path() / "sluice-XXXXXX").string();
    if (!mkdtemp(name.data())) fail("{}: cannot make a temporary folder", name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

double gib(size_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1 << 30); }

void print_plan(const TrainPlan& p, bool json) {
  if (json) {
    JsonObject o;
    o.add("parameters", p.parameters).add("active_parameters", p.active_parameters);
    o.add("weight_bytes", p.weight_bytes).add("optimizer_bytes", p.optimizer_bytes);
    o.add("activation_bytes", p.activation_bytes).add("available_bytes", p.available_bytes);
    o.add("checkpoint_bytes", p.checkpoint_bytes).add("tokens", p.tokens).add("steps", p.steps);
    o.add("tokens_per_second", p.tokens_per_second).add("flops_per_token", p.flops_per_token).add("seconds", p.seconds);
    fmt::print("{}\n", o.str());
    return;
  }
  fmt::print(stderr, "model: {:.2f}M parameters, {:.2f}M active per token\n", static_cast<double>(p.parameters) * 1e-6,
             static_cast<double>(p.active_parameters) * 1e-6);
  fmt::print(stderr,
             "memory: {:.2f} GiB (weights {:.2f}, gradients and optimiser {:.2f}, activations {:.2f}) of {:.1f}; "
             "a checkpoint takes {:.2f} GiB of disk\n",
             gib(p.weight_bytes + p.optimizer_bytes + p.activation_bytes), gib(p.weight_bytes), gib(p.optimizer_bytes),
             gib(p.activation_bytes), gib(p.available_bytes), gib(p.checkpoint_bytes));
  fmt::print(stderr, "run: {} steps over {} tokens of text, {:.0f} tokens/s, {:.1f} GFLOP/s, about {}\n", p.steps,
             p.tokens, p.tokens_per_second, p.flops_per_token * p.tokens_per_second * 1e-9, format_duration(p.seconds));
}

void plan_and_run(Trainer& trainer, const TrainOptions& o, const Communicator& ranks) {
  const TrainPlan plan = trainer.plan();
  if (ranks.rank() == 0) print_plan(plan, o.json);
  if (o.dry_run) return;
  const bool is_done = trainer.run();
  if (ranks.rank() > 0) return;
  if (is_done)
    fmt::print(stderr, "done: {}/latest, {}/report.html\n", o.config.out, o.config.out);
  else
    fmt::print(stderr, "stopped after step {}; to go on: {}sluice train --resume {}\n", trainer.progress().step,
               ranks.size() > 1 ? fmt::format("mpirun -n {} ", ranks.size()) : "", o.config.out);
}

void run_train(TrainOptions& o) {
  resolve(o);
  check_config(o.config);
  watch_stop_signals();
  if (o.from_start) fmt::print(stderr, "{}: no checkpoint yet, beginning again\n", o.resume);
  const std::unique_ptr<Communicator> ranks = open_ranks();
  const std::string resolved = format_config(o.config);
  const TemporaryFolder scratch(o.dry_run && o.resume.empty());  // a dry run leaves nothing behind
  if (!scratch.path().empty()) o.config.out = scratch.path().string();
  if (o.config.threads == 0 && ranks->size() > 1) o.config.threads = cores_of_a_rank();
  auto trainer = std::make_unique<Trainer>(o.config, !o.resume.empty() && !o.from_start,
                                           TrainHooks{stop_requested, write_sample}, *ranks);
  const bool is_first = ranks->rank() == 0;
  if (!o.json && is_first) fmt::print(stderr, "{}", resolved);
  if (is_first)
    for (const std::string& note : trainer->notes()) fmt::print(stderr, "{}\n", note);
  try {
    plan_and_run(*trainer, o, *ranks);
  } catch (...) {
    // Transfers may still write to its memory, until all ranks have been told and end.
    if (ranks->size() > 1) static_cast<void>(trainer.release());
    throw;
  }
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto o = std::make_shared<TrainOptions>();
  CLI::App* c = app.add_subcommand("train", "Train a model from text, or train on from a checkpoint");
  const auto option = [&](const char* name, const char* key, const char* help) {
    const auto set = [options = o.get(), key](const std::string& value) { options->given[key] = {value}; };
    c->add_option_function<std::string>(name, set, help)->group("Run");
  };
  c->add_option("--data", o->given["data"], "text files, globs or packed folders, each PATH or PATH=WEIGHT")
      ->group("Run");
  c->add_option("--eval", o->given["eval"], "held-out text files")->group("Run");
  option("--size", "size", "tiny, small or medium");
  option("--model", "model", "config.json of another shape");
  option("--tokenizer", "tokenizer", "folder of a tokenizer (default: train one)");
  option("--init-from", "init_from", "checkpoint folder to train on from");
  option("--time", "time", "time budget: 90s, 30m, 2h");
  option("--steps", "steps", "number of steps instead of a time budget");
  option("--precision", "precision", "f32, bf16 or fp8");
  option("--seed", "seed", "of initialisation and order of the data");
  option("--threads", "threads", "0: all cores");
  option("--device", "device", "cpu, cuda or cuda:N");
  option("--out", "out", "folder of the run");
  c->add_option("--config", o->file, "YAML file with any of the keys below");
  c->add_option("--resume", o->resume, "run folder to go on with");
  c->add_flag("--dry-run", o->dry_run, "print parameters, memory, disk, speed and expected time, train nothing");
  c->add_flag("--json", o->json, "print the plan as JSON on stdout");
  c->add_option("pairs", o->pairs, "key=value, as in the YAML file");
  c->footer("Keys and defaults:\n" + format_config(TrainConfig()) +
            "\nExample: sluice train --data book.txt --size tiny --time 2m --out run lr=2e-3");
  c->callback([o] { run_train(*o); });
}

}  // namespace sluice
