#include "engine/lookup.h"

#include <algorithm>

namespace sluice {

std::span<const int32_t> lookup_draft(std::span<const int32_t> ids, int64_t most) {
  const size_t n = ids.size();
  size_t found = n;               // where the continuation begins
  for (size_t i = n; i-- > 2;) {  // ids[i] follows a place
    if (ids[i - 1] != ids[n - 1] || ids[i - 2] != ids[n - 2]) continue;
    const bool three = i > 2 && ids[i - 3] == ids[n - 3];
    if (three || found == n) found = i;
    if (three) break;
  }
  return ids.subspan(found, std::min(n - found, static_cast<size_t>(std::max<int64_t>(most, 0))));
}

}  // namespace sluice
