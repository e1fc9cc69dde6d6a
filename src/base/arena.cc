#include "base/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/config.h"
#include "base/cuda/runtime.h"

namespace sluice {

Arena::Arena(size_t capacity_bytes, const Device& device) : device_(device), capacity_(capacity_bytes) {
  if (capacity_ == 0) return;
  if constexpr (kHasCuda) {
    if (device.is_cuda()) {
      base_ = static_cast<char*>(cuda::allocate(device.index, capacity_));
      return;
    }
  }
  check(!device.is_cuda(), "Arena: expected a device of this build");
  void* p = mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) fail("memory: cannot reserve {} MiB of address space", capacity_ >> 20);
  base_ = static_cast<char*>(p);
  madvise(base_, capacity_, MADV_HUGEPAGE);
}

Arena Arena::counting(const Device& device) {
  Arena a;
  a.device_ = device;
  a.counting_ = true;
  return a;
}

Arena::~Arena() {
  if (!base_) return;
  if constexpr (kHasCuda)
    if (device_.is_cuda()) cuda::release(device_.index, base_);
  if (!device_.is_cuda()) munmap(base_, capacity_);
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(base_, other.base_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(peak_, other.peak_);
  std::swap(counting_, other.counting_);
  return *this;
}

Tensor Arena::alloc(DType dtype, std::initializer_list<int64_t> dims) {
  Tensor t(nullptr, dtype, dims);
  const size_t begin = used_, end = begin + (t.bytes() + 63) / 64 * 64;
  if (!counting_ && end > capacity_) fail("memory: an arena of {} MiB is full", capacity_ >> 20);
  used_ = end;
  peak_ = std::max(peak_, used_);
  if (counting_) {  // an address that is never touched, so that slices of it are not offsets from null
    t.data = reinterpret_cast<void*>(begin + 64);
    return t;
  }
  t.data = base_ + begin;
  return t;
}

}  // namespace sluice
