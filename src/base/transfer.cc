#include "base/transfer.h"

#include <cstring>

#include "base/config.h"
#include "base/cuda/runtime.h"

namespace sluice {
namespace {

void copy_rows(const Tensor& to, const Tensor& from) {
  const size_t bytes = static_cast<size_t>(to.cols()) * dtype_size(to.dtype);
  for (int64_t r = 0; r < to.rows(); ++r) std::memcpy(to.at(r), from.at(r), bytes);
}

}  // namespace

void upload(Stream& s, const Tensor& device, const Tensor& host) {
  check(same(device, host), "upload: expected tensors of one dtype and shape");
  if (s.is_dry()) return;
  if constexpr (kHasCuda)
    if (s.is_cuda()) return cuda::transfer(s.queue(), device, host, cuda::Direction::to_device);
  copy_rows(device, host);
}

void download(Stream& s, const Tensor& host, const Tensor& device) {
  check(same(device, host), "download: expected tensors of one dtype and shape");
  if (s.is_dry()) return;
  if constexpr (kHasCuda)
    if (s.is_cuda()) return cuda::transfer(s.queue(), host, device, cuda::Direction::to_host);
  copy_rows(host, device);
}

}  // namespace sluice
