#include "ops/product_time.h"

#include "base/config.h"
#include "base/error.h"

namespace sluice {

ProductTime product_time(Stream& s, const ProductCase& product, int64_t runs) {
  check(s.is_cuda() && runs > 0, "product_time: expected a GPU's stream");
  if constexpr (kHasCuda) return cuda::product_time(s, product, runs);
  return {};
}

}  // namespace sluice
