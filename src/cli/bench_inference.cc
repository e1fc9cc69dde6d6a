// sluice bench prefill, sluice bench decode: tokens per second of a checkpoint, and what they mean in bytes and
// operations beside what this machine can read and compute, measured in the same run.
#include <memory>
#include <vector>

#include "base/rng.h"
#include "cli/bench.h"
#include "cli/disk_rate.h"
#include "cli/inference.h"
#include "ops/roof.h"

namespace sluice {
namespace {

constexpr size_t kRoofBytes = size_t{2} << 30;

struct Options {
  InferenceOptions inference;
  int64_t prompt = 512, tokens = 64, depth = 0, batch = 1, runs = 5;
  bool json = false;
};

/// `batch` sequences of random tokens, of `depth` tokens each.
class Sequences {
 public:
  Sequences(Engine& engine, const Options& o) : engine_(engine), depth_(o.depth) {
    for (int64_t i = 0; i < o.batch; ++i) {
      sessions_.push_back(std::make_unique<Session>(engine, false));
      if (depth_ > 0) sessions_.back()->feed(random_ids(depth_), 0);
    }
  }

  void feed_prompts(int64_t tokens) {
    for (auto& s : sessions_) s->feed(random_ids(tokens), 1);
  }
  /// One more token for every sequence: drawn from the model where that is a GPU's work, else a random one.
  void step() {
    if (ids_.empty() || !engine_.is_on_gpu()) {
      ids_.clear();
      for (size_t i = 0; i < sessions_.size(); ++i) ids_.push_back(random_id());
    }
    std::vector<BatchItem> items;
    for (size_t i = 0; i < sessions_.size(); ++i) items.push_back({sessions_[i].get(), std::span(&ids_[i], 1)});
    const size_t most = static_cast<size_t>(engine_.pass_rows());
    for (size_t i = 0; i < items.size(); i += most) {
      const std::span<const BatchItem> part = std::span(items).subspan(i, std::min(most, items.size() - i));
      engine_.is_on_gpu() ? draw(part, i) : feed_batch(engine_, part, logits_);
    }
  }
  void rewind() {
    for (auto& s : sessions_) s->truncate(depth_);
  }

 private:
  /// The next ids of neighbouring sequences, the first of which is number `first`.
  void draw(std::span<const BatchItem> items, size_t first) {
    std::vector<Draw> draws;
    for (size_t i = 0; i < items.size(); ++i)
      draws.push_back(
          {1, engine_.config().vocab_size, Rng(first + i, static_cast<uint64_t>(items[i].session->length()))});
    std::vector<int32_t> next(items.size());
    feed_batch(engine_, items, draws, next);
    std::copy(next.begin(), next.end(), ids_.begin() + static_cast<int64_t>(first));
  }
  int32_t random_id() { return static_cast<int32_t>(rng_.below(static_cast<uint64_t>(engine_.config().vocab_size))); }
  std::vector<int32_t> random_ids(int64_t n) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < n; ++i) ids.push_back(random_id());
    return ids;
  }

  Engine& engine_;
  int64_t depth_;
  Rng rng_{1};
  std::vector<std::unique_ptr<Session>> sessions_;
  std::vector<int32_t> ids_;
  std::vector<float> logits_;
};

/// Bytes and operations per second of one run; bytes per token that were read from the disk.
struct Measured {
  std::vector<double> tokens, bytes, operations;
  std::vector<double> expert_bytes, needed_bytes, process_bytes;  // only where memory is bounded
};

template <class F>
Measured measure(Engine& engine, Sequences& sequences, const Options& o, double tokens, F&& run) {
  Measured m;
  const auto traffic = [&] { return engine.experts() ? engine.experts()->traffic() : ExpertTraffic(); };
  for (int64_t i = -1; i < o.runs; ++i) {  // the first repacks weights and is not counted
    const Projector::Work before = engine.work();
    const ExpertTraffic traffic_before = traffic();
    const double process_before = process_bytes_read().value_or(0);
    const double seconds = seconds_of(run);
    const Projector::Work after = engine.work();
    const ExpertTraffic traffic_after = traffic();
    sequences.rewind();
    if (i < 0) continue;
    m.tokens.push_back(tokens / seconds);
    m.bytes.push_back((after.bytes - before.bytes) / seconds);
    m.operations.push_back((after.operations - before.operations) / seconds);
    if (!engine.experts()) continue;
    m.expert_bytes.push_back((traffic_after.bytes - traffic_before.bytes) / tokens);
    m.needed_bytes.push_back((traffic_after.needed_bytes - traffic_before.needed_bytes) / tokens);
    m.process_bytes.push_back((process_bytes_read().value_or(0) - process_before) / tokens);
  }
  return m;
}

/// What the disk had to do with it: bytes per token, and the speed that the disk allows for those that were needed.
void report_disk(JsonObject* json, const Inference& inference, const Measured& m) {
  const double needed = median(m.needed_bytes), rate = disk_rate(inference.path, ExpertCache::kReaders);
  const double allowed = needed > 0 ? rate / needed : 0, share = allowed > 0 ? median(m.tokens) / allowed : 0;
  const ExpertTraffic t = inference.engine->experts()->traffic();
  if (json) {
    json->add("expert_bytes_per_token", median(m.expert_bytes)).add("needed_bytes_per_token", needed);
    json->add("process_bytes_per_token", median(m.process_bytes)).add("disk_rate", rate);
    json->add("disk_tokens_per_second", allowed).add("share_of_disk", share);
    add_traffic(*json, *inference.engine);
    return;
  }
  fmt::print("  per token {:.1f} MB of experts needed from the disk, {:.1f} MB read (the process: {:.1f} MB)\n",
             needed * 1e-6, median(m.expert_bytes) * 1e-6, median(m.process_bytes) * 1e-6);
  fmt::print("  of experts {:.0f}% found and {:.0f}% foreseen\n",
             100 * static_cast<double>(t.found) / static_cast<double>(t.asked),
             100 * static_cast<double>(t.foreseen) / static_cast<double>(t.asked));
  fmt::print("  {:.0f}% of the {:.2f} tokens/s that {:.2f} GB/s of disk allow\n", 100 * share, allowed, rate * 1e-9);
}

/// Of a GPU, whose roofs are not measured here.
void report_gpu(const Options& o, const std::string& what, const Inference& inference, const Measured& m) {
  const MeanDeviation speed = mean_deviation(m.tokens);
  const std::string device = device_text(inference.gpu->device());
  if (o.json) {
    JsonObject j;
    j.add("test", what).add("model", o.inference.model).add("device", device);
    j.add("tokens_per_second", speed.mean).add("deviation", speed.deviation).add("median", median(m.tokens));
    j.add("bytes_per_second", median(m.bytes)).add("operations_per_second", median(m.operations));
    fmt::print("{}\n", j.str());
    return;
  }
  fmt::print("{}, {}: {:.2f} ± {:.2f} tokens/s (median {:.2f})\n", what, device, speed.mean, speed.deviation,
             median(m.tokens));
  fmt::print("  reads {:.1f} GB/s, computes {:.1f} Gop/s\n", median(m.bytes) * 1e-9, median(m.operations) * 1e-9);
}

void report(const Options& o, const std::string& what, const Inference& inference, const Measured& m) {
  if (inference.gpu) return report_gpu(o, what, inference, m);
  Stream& s = *inference.stream;
  const MeanDeviation speed = mean_deviation(m.tokens);
  const double bytes = median(m.bytes), operations = median(m.operations);
  const double bandwidth = read_bandwidth(s, kRoofBytes), codes = code_rate(s), floats = float_rate(s);
  if (o.json) {
    JsonObject j;
    j.add("test", what).add("model", o.inference.model).add("threads", s.threads());
    j.add("tokens_per_second", speed.mean).add("deviation", speed.deviation).add("median", median(m.tokens));
    j.add("bytes_per_second", bytes).add("bandwidth", bandwidth);
    j.add("operations_per_second", operations).add("int8_rate", codes).add("float32_rate", floats);
    if (inference.engine->experts()) report_disk(&j, inference, m);
    fmt::print("{}\n", j.str());
    return;
  }
  fmt::print("{}, {} threads: {:.2f} ± {:.2f} tokens/s (median {:.2f})\n", what, s.threads(), speed.mean,
             speed.deviation, median(m.tokens));
  fmt::print("  reads {:.1f} GB/s, {:.0f}% of the {:.1f} GB/s this machine reads\n", bytes * 1e-9,
             100 * bytes / bandwidth, bandwidth * 1e-9);
  fmt::print("  computes {:.1f} Gop/s, {:.0f}% of its {:.0f} int8 Gop/s, {:.0f}% of its {:.0f} float32 GFLOP/s\n",
             operations * 1e-9, 100 * operations / codes, codes * 1e-9, 100 * operations / floats, floats * 1e-9);
  if (inference.engine->experts()) report_disk(nullptr, inference, m);
}

Inference open_for(const Options& o, int64_t tokens) {
  InferenceOptions options = o.inference;
  options.context = o.depth + tokens;
  options.cache_tokens = o.batch * (options.context + kPageTokens);
  return open_inference(options);
}

void bench_prefill(const Options& o) {
  const Inference inference = open_for(o, o.prompt);
  Sequences sequences(*inference.engine, o);
  const Measured m = measure(*inference.engine, sequences, o, static_cast<double>(o.prompt * o.batch),
                             [&] { sequences.feed_prompts(o.prompt); });
  report(o, fmt::format("prefill {} x {} at depth {}", o.batch, o.prompt, o.depth), inference, m);
}

void bench_decode(const Options& o) {
  const Inference inference = open_for(o, o.tokens);
  Sequences sequences(*inference.engine, o);
  const Measured m = measure(*inference.engine, sequences, o, static_cast<double>(o.tokens * o.batch), [&] {
    for (int64_t i = 0; i < o.tokens; ++i) sequences.step();
  });
  report(o, fmt::format("decode {} x {} at depth {}", o.batch, o.tokens, o.depth), inference, m);
}

CLI::App* add_command(CLI::App& bench, const char* name, const char* help, Options& o) {
  CLI::App* c = bench.add_subcommand(name, help);
  const CLI::Range count(int64_t{1}, int64_t{1} << 24);
  c->add_option("--model", o.inference.model, "checkpoint folder or GGUF file")->required();
  c->add_option("--threads", o.inference.threads, "0: one per core")->check(CLI::Range(0, 1024))->capture_default_str();
  add_memory_option(*c, o.inference);
  add_device_option(*c, o.inference);
  c->add_option("--depth", o.depth, "tokens already in the cache")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  c->add_option("--batch", o.batch, "sequences")->check(CLI::Range(1, 1024))->capture_default_str();
  c->add_option("--runs", o.runs, "measurements")->check(count)->capture_default_str();
  c->add_flag("--json", o.json, "one JSON object");
  return c;
}

}  // namespace

void add_bench_inference_commands(CLI::App& bench) {
  const CLI::Range count(int64_t{1}, int64_t{1} << 24);
  auto p = std::make_shared<Options>();
  CLI::App* prefill = add_command(bench, "prefill", "Prompt processing of a checkpoint", *p);
  prefill->add_option("--prompt", p->prompt, "tokens of a prompt")->check(count)->capture_default_str();
  prefill->footer("Example: sluice bench prefill --model model.gguf --prompt 512");
  prefill->callback([p] { bench_prefill(*p); });
  auto d = std::make_shared<Options>();
  CLI::App* decode = add_command(bench, "decode", "Generation of a checkpoint, token by token", *d);
  decode->add_option("--tokens", d->tokens, "tokens of each sequence")->check(count)->capture_default_str();
  decode->footer("Example: sluice bench decode --model model.gguf --depth 4096 --batch 8");
  decode->callback([d] { bench_decode(*d); });
}

}  // namespace sluice
