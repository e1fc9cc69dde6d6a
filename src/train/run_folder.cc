#include "train/run_folder.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "formats/checksums.h"

namespace sluice {
namespace {

constexpr const char *kTrainerFolder = "trainer", *kAverageFolder = "ema";

/// A tensor of trainer/state.safetensors and its memory.
struct StateTensor {
  SafetensorsSpec spec;
  std::byte* data;
  size_t place;  // of the parameter
};

std::vector<StateTensor> state_tensors(const SavedRun& run) {
  std::vector<StateTensor> list;
  const auto add_tree = [&](const char* prefix, ModelWeights& tree) {
    const std::vector<Param> params = parameters(tree);
    for (size_t i = 0; i < params.size(); ++i) {
      const Tensor t = params[i].matrix->tensor();
      list.push_back({{fmt::format("{}.{}", prefix, params[i].name), from_dtype(t.dtype), {t.rows(), t.cols()}},
                      static_cast<std::byte*>(t.data),
                      i});
    }
  };
  if (run.precision != Precision::f32) add_tree("master", *run.master);
  add_tree("m", *run.first_moment);
  add_tree("v", *run.second_moment);
  if (run.ema) add_tree("ema", *run.ema);
  return list;
}

std::vector<FileSum> in_folder(const std::string& folder, std::vector<FileSum> sums) {
  for (FileSum& sum : sums) sum.name = folder + "/" + sum.name;
  return sums;
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

std::vector<FileSum> write_state(const fs::path& folder, const SavedRun& run, const CheckpointPart& part) {
  const std::vector<int64_t> progress = pack_progress(run.progress);
  const auto parts = static_cast<size_t>(part.parts);
  const auto shard = [&](int of) { return shard_name("state", static_cast<size_t>(of), parts); };
  std::map<std::string, const std::byte*> data;
  std::map<std::string, std::string> file_of;
  std::vector<SafetensorsSpec> specs;
  uint64_t total = 0;
  const auto add = [&](const SafetensorsSpec& spec, const std::byte* bytes, int of) {
    file_of[spec.name] = shard(of);
    total += spec.bytes();
    if (of != part.part) return;
    specs.push_back(spec);
    data[spec.name] = bytes;
  };
  add({"progress", StDType::i64, {static_cast<int64_t>(progress.size())}},
      reinterpret_cast<const std::byte*>(progress.data()), 0);
  for (const StateTensor& t : state_tensors(run)) add(t.spec, t.data, part.of(t.place));
  std::vector<FileSum> sums;
  const fs::path in = folder / kTrainerFolder;
  if (!specs.empty())
    sums.push_back(
        write_safetensors(in / shard(part.part), specs, [&](const SafetensorsSpec& spec, SafetensorsWriter& writer) {
          writer.write({data.at(spec.name), spec.bytes()});
        }));
  if (part.part == 0 && part.parts > 1) sums.push_back(write_safetensors_index(in, "state", file_of, total));
  return in_folder(kTrainerFolder, sums);
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
  remove_unfinished(out);
}

/// The shards of this part, and of the first what goes with them.
std::vector<FileSum> write_part(Stream& s, const fs::path& folder, const SavedRun& run, const CheckpointPart& part) {
  std::vector<FileSum> sums = save_checkpoint(s, folder, run.config, *run.master, run.precision, stored_rows(), part);
  const auto add = [&](const std::vector<FileSum>& more) { sums.insert(sums.end(), more.begin(), more.end()); };
  if (run.ema)
    add(in_folder(kAverageFolder, save_checkpoint(s, folder / kAverageFolder, run.config, *run.ema, run.precision,
                                                  stored_rows(), part)));
  add(write_state(folder, run, part));
  return sums;
}

/// On the first rank, the sums of the other parts' shards too. Returns when all parts are on the disk.
void gather_sums(std::vector<FileSum>& sums, Communicator& ranks) {
  const std::vector<std::string> stems{"model", std::string(kAverageFolder) + "/model",
                                       std::string(kTrainerFolder) + "/state"};
  const auto count = static_cast<size_t>(ranks.size());
  std::vector<int64_t> all(count * stems.size() * 2);  // size and CRC32
  const auto at = [&](size_t rank, size_t stem) { return (rank * stems.size() + stem) * 2; };
  const auto me = static_cast<size_t>(ranks.rank());
  for (size_t i = 0; i < stems.size(); ++i)
    for (const FileSum& sum : sums)
      if (sum.name == shard_name(stems[i], me, count)) {
        all[at(me, i)] = static_cast<int64_t>(sum.size);
        all[at(me, i) + 1] = sum.crc32;
      }
  ranks.all_reduce(Tensor(all.data(), DType::i64, {static_cast<int64_t>(all.size())})).wait();
  for (size_t r = 1; r < count && me == 0; ++r)
    for (size_t i = 0; i < stems.size(); ++i)
      if (const int64_t size = all[at(r, i)]; size > 0)
        sums.push_back(
            {shard_name(stems[i], r, count), static_cast<uint64_t>(size), static_cast<uint32_t>(all[at(r, i) + 1])});
}

/// All but the shards; with the last file of it the folder is a checkpoint.
void complete(const fs::path& folder, const SavedRun& run, const RunFiles& files, std::vector<FileSum> sums) {
  put_tokenizer(folder, files, run.config, sums);
  if (run.ema) {
    std::vector<FileSum> average;
    put_tokenizer(folder / kAverageFolder, files, run.config, average);
    for (const FileSum& sum : in_folder(kAverageFolder, average)) sums.push_back(sum);
  }
  put_text(folder, "trainer/config.yaml", files.config_yaml, sums);
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

SavedRun saved(const RunState& state) {
  Optimizer& o = state.optimizer;
  return {state.model.config, state.model.precision, &o.master(), &o.first_moment(), &o.second_moment(),
          state.ema,          state.progress};
}

void save_run(Stream& s, const fs::path& out, const SavedRun& run, const RunFiles& files, Communicator& ranks,
              const std::vector<int>& owner) {
  const fs::path name = checkpoint_name(run.progress.step), temporary = out / (name.string() + ".partial");
  const bool is_first = ranks.rank() == 0;
  const auto clear = [&] {  // of several ranks others may be writing there
    std::error_code ignored;
    if (ranks.size() == 1) fs::remove_all(temporary, ignored);
  };
  try {
    bool is_there = false;
    if (is_first) {
      fs::remove_all(temporary);
      is_there = is_good(out / name);
      if (!is_there) fs::create_directories(temporary / kTrainerFolder);
      if (!is_there && run.ema) fs::create_directories(temporary / kAverageFolder);
    }
    if (!agree(ranks, is_there)) {
      std::vector<FileSum> sums = write_part(s, temporary, run, {ranks.rank(), ranks.size(), owner});
      gather_sums(sums, ranks);
      if (is_first) {
        complete(temporary, run, files, std::move(sums));
        fs::remove_all(out / name);
        fs::rename(temporary, out / name);
      }
    }
    if (is_first) publish(out, name, run.progress, files.keep_last);
    agree(ranks, 0);  // nobody goes on before
  } catch (const fs::filesystem_error& e) {
    clear();
    fail("{}: cannot save the checkpoint: {}", (out / name).string(), e.code().message());
  } catch (const Error&) {
    clear();
    throw;
  }
}

void remove_unfinished(const fs::path& out) {
  std::vector<fs::path> parts;
  for (const auto& entry : fs::directory_iterator(out))
    if (entry.path().extension() == ".partial" && is_checkpoint_name(entry.path().stem().string()))
      parts.push_back(entry.path());
  for (const fs::path& part : parts) fs::remove_all(part);
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
  const SafetensorsFolder files(checkpoint / kTrainerFolder, "state");
  for (const StateTensor& t : state_tensors(saved(state))) {
    if (!is_in(state.optimizer.owned(), t.place)) continue;
    const SafetensorsEntry& e = files.get(t.spec.name);
    if (e.dtype != t.spec.dtype || e.shape != t.spec.shape)
      fail("{}: {}: expected {} of [{}]", e.file, e.name, st_dtype_name(t.spec.dtype), fmt::join(t.spec.shape, ", "));
    std::memcpy(t.data, e.bytes.data(), e.bytes.size());
  }
  unpack_progress(files.get("progress"), state.progress);
  state.optimizer.set_steps(state.progress.step);
  state.optimizer.refresh_working(s);
}

}  // namespace sluice
