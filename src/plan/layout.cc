#include "plan/layout.h"

namespace sluice {

Holders holders_of(const Layout& layout) {
  const double copies = static_cast<double>(layout.pipeline.holders(0).size());
  const double data = static_cast<double>(layout.data);
  return {data * copies, data / static_cast<double>(layout.expert) * copies};
}

std::vector<int64_t> first_layers(const Layout& layout) {
  std::vector<int64_t> first = {0};
  for (const int n : layout.layers) first.push_back(first.back() + n);
  return first;
}

}  // namespace sluice
