// Batches of token ids -> tensors of a pass.
#pragma once
#include "data/sampler.h"
#include "model/model.h"

namespace sluice {

/// Rows [begin, begin + rows) of `batch` as a ModelBatch with all targets, in memory of `a`, which is the stream's
/// device's.
ModelBatch device_batch(Stream& s, Arena& a, const Batch& batch, int64_t begin, int64_t rows, int64_t mtp_modules);

/// Tokens of `batch` that are targets of the main head.
int64_t count_targets(const Batch& batch);

}  // namespace sluice
