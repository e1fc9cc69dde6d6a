// Whether a run fits, before it starts.
#pragma once
#include "model/model.h"
#include "train/config.h"

namespace sluice {

/// Peak bytes of activations of one micro-batch on `device`, from a dry run of the pass itself. `exchange`: of experts
/// on several ranks, or null.
size_t activation_bytes(const HfConfig& model, const TrainConfig& config, Precision precision, const Device& device,
                        ExpertExchange* exchange = nullptr);

/// Bytes of memory this machine can still give (MemAvailable), bounded by the cgroup's limit.
size_t available_memory();
/// The same of a device; of a GPU without what its kernels need for themselves.
size_t available_memory(const Device& device);

/// Throws Error with the sums by kind when weights, optimiser and activations do not fit into what `device` has.
/// `part`: of the model that is here, where there are several ranks.
void check_memory(const HfConfig& model, const TrainConfig& config, Precision precision, size_t activations,
                  const Device& device, double part = 1);

/// dst = src for those in `mask`, trees of equal shapes and float32.
void copy_weights(Stream& s, ModelWeights& src, ModelWeights& dst, const ParamMask& mask);

}  // namespace sluice
