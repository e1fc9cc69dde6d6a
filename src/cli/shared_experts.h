// Inference whose routed experts lie on the ranks that mpirun or srun has started.
#pragma once
#include <memory>
#include <string>

#include "cli/inference.h"
#include "engine/expert_ranks.h"

namespace sluice {

/// What all ranks must have in common to make the same passes: the CPU, and drafting that does not depend on measured
/// times; of the machine's cores each takes its share. Nothing changes for one rank alone. Throws Error for --memory.
void prepare_for_ranks(const Communicator& ranks, InferenceOptions& options, SamplingOptions& sampling);

/// Places the experts as `placement` says, a file that `sluice balance --out` wrote; "": in order. Null for one rank
/// alone. `ranks` and what is returned must outlive the passes of the engine. Throws Error where the placement is not
/// one for this model and as many ranks.
std::unique_ptr<ExpertRanks> share_experts(Communicator& ranks, const Inference& inference,
                                           const std::string& placement);

}  // namespace sluice
