// What /metrics tells: the names and units that dashboards for vLLM read, under the prefix sluice_ (a colon, as in
// vLLM's own prefix, is for recording rules and refused by promtool).
#pragma once
#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "engine/scheduler.h"

namespace sluice {

/// Counts of values up to each of some bounds.
class Histogram {
 public:
  /// `bounds` ascending; a last one, infinity, is implied.
  explicit Histogram(std::vector<double> bounds);
  void observe(double value);
  /// The lines of one series of `name`, with these labels: `a="b"`.
  void write(std::string& out, const std::string& name, const std::string& labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // one more than bounds
  double sum_ = 0;
};

/// How a text ended, for clients and metrics.
enum class EndReason : uint8_t { stop, length, abort, error };
constexpr size_t kNumEndReasons = 4;

/// Every function may be called from any thread.
class Metrics {
 public:
  Metrics();
  /// Seconds between two tokens of a text.
  void token_gap(double seconds);
  /// A text has ended. `max_tokens`: what was asked for.
  void finished(const RequestResult& result, EndReason reason, int64_t max_tokens);
  /// A response of that status.
  void response(int status);

  /// Prometheus' text format. `stats` of the scheduler; null while the model is being loaded. `grammar_bytes`: memory
  /// of compiled grammars.
  std::string text(const std::string& model, const SchedulerStats* stats, size_t connections,
                   size_t grammar_bytes) const;

 private:
  void write_histograms(std::string& out, const std::string& labels) const;
  void write_counts(std::string& out, const std::string& labels) const;

  mutable std::mutex mutex_;
  Histogram first_token_, between_tokens_, per_token_, whole_, queue_, inference_, prefill_, decode_;
  Histogram prompt_tokens_, text_tokens_, max_tokens_;
  std::array<int64_t, kNumEndReasons> ended_{};
  std::array<int64_t, 6> responses_{};  // by the first digit of the status
};

}  // namespace sluice
