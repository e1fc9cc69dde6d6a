// The folder of a training run: checkpoints that survive a kill at any moment.
//   OUT/step-00000200/   a Hugging Face checkpoint, tokenizer included, checksums.json, and for resuming
//     trainer/           config.yaml, state.safetensors (masters, moments, average, progress)
//     ema/               the averaged weights as a checkpoint, if kept
//   OUT/latest, OUT/best links to the newest and the best of them
// A checkpoint is written under a temporary name and renamed when every file of it is on disk. Of several ranks each
// writes a shard of the weights and of the state, with what it owns; the first writes the rest, checksums.json last.
// Any number of ranks goes on from it.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "model/checkpoint.h"
#include "parallel/communicator.h"
#include "train/optimizer.h"

namespace sluice {

/// OUT/run.yaml: the resolved configuration, from which a run begins again when it was killed before its first
/// checkpoint.
inline constexpr const char* kRunConfig = "run.yaml";

/// Where a run stands, besides weights and optimiser.
struct RunProgress {
  int64_t step = 0, total_steps = 0;
  int64_t tokens = 0;        // trained on so far
  double seconds = 0;        // of training so far
  double best_loss = 1e300;  // of the evaluations so far
  int64_t best_step = -1;
  std::vector<int64_t> sampler;  // Sampler::state()
};

/// What a checkpoint is made of.
struct RunState {
  Model& model;
  Optimizer& optimizer;
  ModelWeights* ema;  // float32, or null
  RunProgress& progress;
};

/// What of it is written: trees in host memory.
struct SavedRun {
  HfConfig config;
  Precision precision;
  ModelWeights *master, *first_moment, *second_moment, *ema;  // ema: or null
  RunProgress progress;
};
SavedRun saved(const RunState& state);

/// What is stored beside the weights, and how many checkpoints stay.
struct RunFiles {
  std::string config_yaml;                       // trainer/config.yaml
  std::map<std::string, std::string> tokenizer;  // tokenizer.json, tokenizer_config.json: names and contents
  int64_t keep_last = 1;
};

/// The tokenizer's files in `folder`, of which the second may be missing. Throws Error.
std::map<std::string, std::string> read_tokenizer_files(const fs::path& folder);

/// Writes OUT/step-N, points `latest` (and `best`, when progress.best_step is this step) at it and removes checkpoints
/// beyond the `keep_last` newest and the best. All of `ranks` call it, rank r with the parameters whose `owner`, by
/// place in parameters(), is r (empty: one rank has all); it returns when all is on the disk. Throws Error naming the
/// file that could not be written, on the rank that writes it: others wait for it then. Older checkpoints are as they
/// were. Also removes later checkpoints, which were found damaged when the run went on from an earlier one, and what a
/// kill left of unfinished ones. A good OUT/step-N stays as it is: a finished run was resumed from it.
void save_run(Stream& s, const fs::path& out, const SavedRun& run, const RunFiles& files, Communicator& ranks,
              const std::vector<int>& owner = {});

/// Removes what a kill left of unfinished checkpoints.
void remove_unfinished(const fs::path& out);

/// Whether `out` holds a finished checkpoint, damaged or not.
bool has_checkpoints(const fs::path& out);

/// The newest checkpoint of a run whose checksums hold; `problem` gets a line for each newer one that is damaged.
/// Empty when there is none.
std::optional<fs::path> find_good_checkpoint(const fs::path& out, std::vector<std::string>& problems);

/// Loads masters, moments, average and progress of `checkpoint` into a state whose model has been loaded from it.
/// Throws Error naming file and tensor.
void load_run(Stream& s, const fs::path& checkpoint, const RunState& state);

}  // namespace sluice
