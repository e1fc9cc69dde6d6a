#include "train/run_folder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/checksums.h"
#include "model/checkpoint.h"

namespace sluice {
namespace {

constexpr const char* kStateFile = "trainer/state.safetensors";

/// A tensor of trainer/state.safetensors and its memory.
struct StateTensor {
  SafetensorsSpec spec;
  std::byte* data;
  bool is_owned;
};

std::vector<StateTensor> state_tensors(const RunState& state) {
  std::vector<StateTensor> list;
  const auto add_tree = [&](const char* prefix, ModelWeights& tree) {
    const std::vector<Param> params = parameters(tree);
    for (size_t i = 0; i < params.size(); ++i) {
      const Tensor t = params[i].matrix->tensor();
      list.push_back({{fmt::format("{}.{}", prefix, params[i].name), from_dtype(t.dtype), {t.rows(), t.cols()}},
                      static_cast<std::byte*>(t.data),
                      is_in(state.optimizer.owned(), i)});
    }
  };
  if (&state.optimizer.master() != &state.model.weights) add_tree("master", state.optimizer.master());
  add_tree("m", state.optimizer.first_moment());
  add_tree("v", state.optimizer.second_moment());
  if (state.ema) add_tree("ema", *state.ema);
  return list;
}

std::vector<int64_t> pack_progress(const RunProgress& p) {
  std::vector<int64_t> v{
      p.step,     p.total_steps, p.tokens, std::bit_cast<int64_t>(p.seconds), std::bit_cast<int64_t>(p.best_loss),
      p.best_step};
  v.insert(v.end(), p.sampler.begin(), p.sampler.end());
  return v;
}

void unpack_progress(const SafetensorsEntry& e, RunProgress& p) {
  std::vector<int64_t> v(static_cast<size_t>(e.size()));
  if (e.dtype != StDType::i64 || v.size() < 6) fail("{}: {}: expected at least 6 integers", e.file, e.name);
  std::memcpy(v.data(), e.bytes.data(), e.bytes.size());
  p.step = v[0], p.total_steps = v[1], p.tokens = v[2], p.seconds = std::bit_cast<double>(v[3]);
  p.best_loss = std::bit_cast<double>(v[4]), p.best_step = v[5];
  p.sampler.assign(v.begin() + 6, v.end());
}

FileSum write_state(const fs::path& folder, const RunState& state) {
  const std::vector<StateTensor> tensors = state_tensors(state);
  const std::vector<int64_t> progress = pack_progress(state.progress);
  std::map<std::string, const std::byte*> data;
  std::vector<SafetensorsSpec> specs{{"progress", StDType::i64, {static_cast<int64_t>(progress.size())}}};
  data["progress"] = reinterpret_cast<const std::byte*>(progress.data());
  for (const StateTensor& t : tensors) {
    specs.push_back(t.spec);
    data[t.spec.name] = t.data;
  }
  SafetensorsWriter writer(folder / kStateFile, specs);
  for (const SafetensorsSpec& spec : writer.tensors()) writer.write({data.at(spec.name), spec.bytes()});
  FileSum sum = writer.commit();
  sum.name = kStateFile;
  return sum;
}

void put_text(const fs::path& folder, const std::string& name, const std::string& text, std::vector<FileSum>& sums) {
  write_file(folder / name, text);
  sums.push_back(sum_file(folder, name));
}

void put_tokenizer(const fs::path& folder, const RunFiles& files, const HfConfig& c, std::vector<FileSum>& sums) {
  for (const auto& [name, text] : files.tokenizer) put_text(folder, name, text, sums);
  HfGeneration g;
  g.bos_token_id = c.bos_token_id;
  g.eos_token_id = c.eos_token_id;
  put_text(folder, "generation_config.json", write_hf_generation(g), sums);
}

/// A link that is replaced in one step.
void point(const fs::path& link, const fs::path& target) {
  const fs::path temporary = link.string() + ".tmp";
  fs::remove(temporary);
  fs::create_symlink(target, temporary);
  fs::rename(temporary, link);
}

bool is_checkpoint_name(const std::string& name) {
  return name.starts_with("step-") && name.size() > 5 && name.find_first_not_of("0123456789", 5) == std::string::npos;
}

/// Finished checkpoints, newest first.
std::vector<fs::path> checkpoints(const fs::path& out) {
  std::vector<fs::path> list;
  if (!fs::is_directory(out)) return list;
  for (const auto& entry : fs::directory_iterator(out))
    if (entry.is_directory() && is_checkpoint_name(entry.path().filename().string())) list.push_back(entry.path());
  std::sort(list.rbegin(), list.rend());
  return list;
}

fs::path checkpoint_name(int64_t step) { return fmt::format("step-{:08}", step); }

/// Called when the checkpoint of progress.step is there. Later ones are those that were found damaged when the run went
/// on from before them; parts of checkpoints are what a kill left.
void remove_old(const fs::path& out, const RunProgress& progress, int64_t keep_last) {
  int64_t kept = 0;
  for (const fs::path& folder : checkpoints(out)) {
    const bool later = folder.filename() > checkpoint_name(progress.step);
    if (!later && ++kept <= std::max<int64_t>(keep_last, 1)) continue;
    if (later || folder.filename() != checkpoint_name(progress.best_step)) fs::remove_all(folder);
  }
  std::vector<fs::path> parts;
  for (const auto& entry : fs::directory_iterator(out))
    if (entry.path().extension() == ".partial" && is_checkpoint_name(entry.path().stem().string()))
      parts.push_back(entry.path());
  for (const fs::path& part : parts) fs::remove_all(part);
}

void write_all(Stream& s, const fs::path& folder, const RunState& state, const RunFiles& files) {
  fs::create_directories(folder / "trainer");
  std::vector<FileSum> sums =
      save_checkpoint(s, folder, state.model.config, state.optimizer.master(), state.model.precision, stored_rows());
  put_tokenizer(folder, files, state.model.config, sums);
  if (state.ema) {
    fs::create_directories(folder / "ema");
    std::vector<FileSum> ema =
        save_checkpoint(s, folder / "ema", state.model.config, *state.ema, state.model.precision, stored_rows());
    put_tokenizer(folder / "ema", files, state.model.config, ema);
    for (FileSum& sum : ema) sums.push_back({"ema/" + sum.name, sum.size, sum.crc32});
  }
  put_text(folder, "trainer/config.yaml", files.config_yaml, sums);
  sums.push_back(write_state(folder, state));
  write_checksums(folder, sums);
  sync_directory(folder);
}

bool is_good(const fs::path& folder) {
  if (!fs::is_directory(folder)) return false;
  try {
    verify_checksums(folder);
  } catch (const Error&) {
    return false;
  }
  return true;
}

/// Links and the removal of old checkpoints, once OUT/`name` is there.
void publish(const fs::path& out, const fs::path& name, const RunProgress& progress, int64_t keep_last) {
  sync_directory(out);
  point(out / "latest", name);
  if (progress.best_step == progress.step) point(out / "best", name);
  sync_directory(out);
  remove_old(out, progress, keep_last);
}

}  // namespace

std::map<std::string, std::string> read_tokenizer_files(const fs::path& folder) {
  std::map<std::string, std::string> files{{"tokenizer.json", read_file(folder / "tokenizer.json")}};
  const fs::path config = folder / "tokenizer_config.json";
  if (fs::exists(config)) files[config.filename()] = read_file(config);
  return files;
}

void save_run(Stream& s, const fs::path& out, const RunState& state, const RunFiles& files, int64_t keep_last) {
  const fs::path name = checkpoint_name(state.progress.step), temporary = out / (name.string() + ".partial");
  try {
    fs::remove_all(temporary);
    if (!is_good(out / name)) {
      write_all(s, temporary, state, files);
      fs::remove_all(out / name);
      fs::rename(temporary, out / name);
    }
    publish(out, name, state.progress, keep_last);
  } catch (const fs::filesystem_error& e) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    fail("{}: cannot save the checkpoint: {}", (out / name).string(), e.code().message());
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
}

bool has_checkpoints(const fs::path& out) { return !checkpoints(out).empty(); }

std::optional<fs::path> find_good_checkpoint(const fs::path& out, std::vector<std::string>& problems) {
  for (const fs::path& folder : checkpoints(out)) {
    try {
      verify_checksums(folder);
      return folder;
    } catch (const Error& e) {
      problems.emplace_back(e.what());
    }
  }
  return {};
}

void load_run(Stream& s, const fs::path& checkpoint, const RunState& state) {
  const SafetensorsFile file(checkpoint / kStateFile);
  for (const StateTensor& t : state_tensors(state)) {
    if (!t.is_owned) continue;
    const SafetensorsEntry& e = file.get(t.spec.name);
    if (e.dtype != t.spec.dtype || e.shape != t.spec.shape)
      fail("{}: {}: expected {} of [{}]", e.file, e.name, st_dtype_name(t.spec.dtype), fmt::join(t.spec.shape, ", "));
    std::memcpy(t.data, e.bytes.data(), e.bytes.size());
  }
  unpack_progress(file.get("progress"), state.progress);
  state.optimizer.set_steps(state.progress.step);
  state.optimizer.refresh_working(s);
}

}  // namespace sluice
