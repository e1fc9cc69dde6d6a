// Drafts without a draft model: a text that repeats itself probably goes on as it did before.
#pragma once
#include <cstdint>
#include <span>

namespace sluice {

/// Up to `most` tokens that followed the latest earlier place where the last three tokens of `ids` stand, else the last
/// two; a part of `ids`, empty when there is no such place. Reads `ids` once.
std::span<const int32_t> lookup_draft(std::span<const int32_t> ids, int64_t most);

}  // namespace sluice
