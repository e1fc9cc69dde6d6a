// report.html: a training run on one page.
#pragma once
#include "base/file.h"

namespace sluice {

/// Reads folder/metrics.jsonl and writes folder/report.html (atomically): summary, curves of loss, learning rate,
/// gradient norm, MaxVio and speed, a map of expert load by layer and step, samples of text, the configuration. The
/// page needs nothing else and loads nothing; it stays below some 300 KB however long the run. Throws Error naming the
/// file when the log is malformed or has no step, or when the report cannot be written.
void write_report(const fs::path& folder);

}  // namespace sluice
