#include "data/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"

namespace sluice {
namespace {

constexpr int64_t kStateVersion = 1;
constexpr size_t kStateHead = 4, kStatePerSource = 6;

uint64_t epoch_key(uint64_t seed, size_t source, int64_t epoch) {
  return mix64(seed ^ mix64(mix64(source + 1) ^ static_cast<uint64_t>(epoch)));
}

/// A permutation of [0, n), n >= 1: a Feistel network on the next even number of bits; values outside [0, n) walk on
/// along their cycle, fewer than four steps on average.
int64_t permute(int64_t index, int64_t n, uint64_t key) {
  constexpr int kRounds = 6;
  const int half = std::max(1, (static_cast<int>(std::bit_width(static_cast<uint64_t>(n - 1))) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  auto x = static_cast<uint64_t>(index);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (mix64(key ^ mix64(right * kRounds + round)) & mask);
      left = right;
      right = mixed;
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(x);
}

Batch empty_batch(int64_t rows, int64_t cols) {
  Batch batch;
  batch.rows = rows;
  batch.cols = cols;
  const auto size = static_cast<size_t>(rows * cols);
  batch.ids.resize(size);
  batch.first.resize(size);
  batch.loss.resize(size);
  return batch;
}

/// The first `count` columns of row `row`.
TokenWindow row_window(Batch& batch, int64_t row, int64_t count) {
  const auto at = static_cast<size_t>(row * batch.cols), n = static_cast<size_t>(count);
  return {std::span(batch.ids).subspan(at, n), std::span(batch.first).subspan(at, n),
          std::span(batch.loss).subspan(at, n)};
}

}  // namespace

void fill_targets(const Batch& batch, int64_t shift, std::span<int32_t> targets) {
  check(targets.size() == batch.ids.size() && shift >= 1, "fill_targets: expected (rows, cols) targets and shift >= 1");
  for (int64_t row = 0; row < batch.rows; ++row) {
    for (int64_t t = 0; t < batch.cols; ++t) {
      const auto i = static_cast<size_t>(row * batch.cols + t);
      const auto target = i + static_cast<size_t>(shift);
      const bool seen = t + shift < batch.cols && batch.loss[target] != 0 && batch.first[target] <= t;
      targets[i] = seen ? batch.ids[target] : -1;
    }
  }
}

Sampler::Sampler(std::vector<SamplerSource> sources, const SamplerOptions& options) : options_(options) {
  check(options.seq_len >= 1, "Sampler: expected seq_len >= 1");
  check(options.ranks >= 1 && options.rank >= 0 && options.rank < options.ranks, "Sampler: expected 0 <= rank < ranks");
  if (sources.empty()) fail("data: expected at least one source, found none");
  const auto weighted = std::count_if(sources.begin(), sources.end(), [](const auto& s) { return s.weight != 0; });
  if (weighted != 0 && weighted != static_cast<std::ptrdiff_t>(sources.size())) {
    fail("data: weight: expected one for every source or for none, found {} of {}", weighted, sources.size());
  }
  double total = 0;
  for (SamplerSource& s : sources) {
    const std::string& name = s.range.set->name();
    if (s.range.size() < options.seq_len + 1) {
      fail("{}: expected at least {} tokens (sequence length + 1), found {}", name, options.seq_len + 1,
           s.range.size());
    }
    if (!(s.weight >= 0) || !std::isfinite(s.weight)) {
      fail("{}: weight: expected a finite number above 0, found {}", name, s.weight);
    }
    sources_.push_back({.range = std::move(s.range), .weight = s.weight, .epoch = 0, .position = 0, .drawn = 0});
    if (weighted == 0) sources_.back().weight = static_cast<double>(windows(sources_.size() - 1));
    total += sources_.back().weight;
  }
  for (Source& s : sources_) s.weight /= total;
}

Sampler::Epoch Sampler::epoch_of(const Source& s, size_t i) const {
  const int64_t size = s.range.size(), seq = options_.seq_len;
  int64_t shift = 0;
  if (s.epoch > 0) {
    const auto shifts = static_cast<uint64_t>(std::min(seq, size - seq));  // each leaves a whole window
    shift = static_cast<int64_t>(mix64(epoch_key(options_.seed, i, s.epoch)) % shifts);
  }
  return {s.range.begin + shift, (size - 1 - shift) / seq};
}

size_t Sampler::pick_source() const {
  const auto n = static_cast<double>(drawn() + 1);
  size_t best = 0;
  double most = -HUGE_VAL;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const double lag = sources_[i].weight * n - static_cast<double>(sources_[i].drawn);
    if (lag > most) {
      most = lag;
      best = i;
    }
  }
  return best;
}

int64_t Sampler::advance(size_t i) {
  Source& s = sources_[i];
  const Epoch epoch = epoch_of(s, i);
  const int64_t window = permute(s.position, epoch.windows, epoch_key(options_.seed, i, s.epoch));
  ++s.drawn;
  if (++s.position == epoch.windows) {
    s.position = 0;
    ++s.epoch;
  }
  return epoch.begin + window * options_.seq_len;
}

Batch Sampler::next(int64_t global_rows) {
  check(global_rows >= 1 && global_rows % options_.ranks == 0, "Sampler::next: expected a multiple of the ranks");
  const int64_t rows = global_rows / options_.ranks;
  Batch batch = empty_batch(rows, options_.seq_len + 1);
  for (int64_t g = 0; g < global_rows; ++g) {
    const size_t source = pick_source();
    const int64_t begin = advance(source);
    if (g / rows != options_.rank) continue;
    sources_[source].range.set->read(begin, row_window(batch, g % rows, batch.cols));
  }
  return batch;
}

int64_t Sampler::drawn() const {
  int64_t n = 0;
  for (const Source& s : sources_) n += s.drawn;
  return n;
}

int64_t Sampler::windows(size_t i) const { return (sources_[i].range.size() - 1) / options_.seq_len; }

double Sampler::epochs(size_t i) const {
  const Source& s = sources_[i];
  return static_cast<double>(s.epoch) + static_cast<double>(s.position) / static_cast<double>(epoch_of(s, i).windows);
}

std::vector<int64_t> Sampler::state() const {
  std::vector<int64_t> state{kStateVersion, static_cast<int64_t>(options_.seed), options_.seq_len,
                             static_cast<int64_t>(sources_.size())};
  for (const Source& s : sources_) {
    state.insert(state.end(), {static_cast<int64_t>(s.range.set->fingerprint()), s.range.begin, s.range.end, s.epoch,
                               s.position, s.drawn});
  }
  return state;
}

void Sampler::set_state(std::span<const int64_t> state) {
  const auto expect = [](const char* field, int64_t expected, int64_t found) {
    if (expected != found) fail("data state: {}: expected {}, found {}", field, expected, found);
  };
  const size_t size = kStateHead + kStatePerSource * sources_.size();
  if (state.size() < kStateHead) fail("data state: expected {} numbers, found {}", size, state.size());
  expect("version", kStateVersion, state[0]);
  expect("seed", static_cast<int64_t>(options_.seed), state[1]);
  expect("sequence length", options_.seq_len, state[2]);
  expect("sources", static_cast<int64_t>(sources_.size()), state[3]);
  expect("numbers", static_cast<int64_t>(size), static_cast<int64_t>(state.size()));
  std::vector<Source> restored = sources_;
  for (size_t i = 0; i < restored.size(); ++i) {
    const auto v = state.subspan(kStateHead + kStatePerSource * i, kStatePerSource);
    Source& s = restored[i];
    const TokenSet& set = *s.range.set;
    if (v[0] != set.fingerprint() || v[1] != s.range.begin || v[2] != s.range.end) {
      fail("{}: expected the data that the run began with, found other data (checksum {:08x} is now {:08x})",
           set.name(), v[0], set.fingerprint());
    }
    constexpr int64_t kMost = int64_t{1} << 40;
    s.epoch = v[3];
    if (v[3] < 0 || v[3] > kMost || v[4] < 0 || v[4] >= epoch_of(s, i).windows || v[5] < 0 || v[5] > kMost) {
      fail("data state: source {}: expected epoch, position and windows within the data, found {}, {}, {}", i, v[3],
           v[4], v[5]);
    }
    s.position = v[4];
    s.drawn = v[5];
  }
  sources_ = std::move(restored);
}

EvalWindows::EvalWindows(TokenRange range, int64_t seq_len, int64_t context)
    : range_(std::move(range)), seq_len_(seq_len), context_(context) {
  check(seq_len >= 1 && context >= 0 && context < seq_len, "EvalWindows: expected 0 <= context < seq_len");
  if (range_.size() < 2) {
    fail("{}: expected at least 2 tokens of held-out data, found {}", range_.set->name(), range_.size());
  }
}

int64_t EvalWindows::size() const {
  const int64_t stride = seq_len_ - context_, beyond = std::max<int64_t>(0, range_.size() - 1 - seq_len_);
  return 1 + (beyond + stride - 1) / stride;
}

Batch EvalWindows::batch(int64_t begin, int64_t rows) const {
  check(begin >= 0 && rows >= 1 && begin < size(), "EvalWindows::batch: the windows do not exist");
  Batch batch = empty_batch(std::min(rows, size() - begin), seq_len_ + 1);
  for (int64_t row = 0; row < batch.rows; ++row) {
    const int64_t from = range_.begin + (begin + row) * (seq_len_ - context_);
    range_.set->read(from, row_window(batch, row, std::min(batch.cols, range_.end - from)));
    const auto seen = begin + row == 0 ? 0 : context_ + 1;
    std::fill_n(batch.loss.begin() + row * batch.cols, seen, uint8_t{0});
  }
  return batch;
}

}  // namespace sluice
