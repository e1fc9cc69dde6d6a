// What the contents of the KV cache depend on besides tokens, as one number.
#pragma once
#include <cstdint>

#include "engine/engine.h"

namespace sluice {

/// Differs between models, and between machines whose arithmetic differs in the last bits: a hash of the configuration,
/// of some bytes of every weight, and of the cache's rows for one page of fixed tokens, which are computed here. Takes
/// a page of the cache for that time. Throws Error as Session::feed.
uint64_t prefix_fingerprint(Engine& engine);

}  // namespace sluice
