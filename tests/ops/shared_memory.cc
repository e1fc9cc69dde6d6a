#include "shared_memory.h"

#include <algorithm>
#include <array>
#include <bit>
#include <new>
#include <vector>

#include "base/config.h"
#include "base/cuda/runtime.h"
#include "base/device.h"

namespace sluice::test {
namespace {

/// Taking page-locked memory is slow: one block of it is dealt out in powers of two, and pieces are used again.
class Pool {
 public:
  void* allocate(size_t bytes) {
    const size_t size = piece(bytes);
    std::vector<void*>& free = free_[static_cast<size_t>(std::countr_zero(size))];
    if (free.empty()) {
      if (next_ + size > end_) grow(size);
      next_ += size;
      return next_ - size;
    }
    void* memory = free.back();
    free.pop_back();
    return memory;
  }
  void release(void* memory, size_t bytes) {
    free_[static_cast<size_t>(std::countr_zero(piece(bytes)))].push_back(memory);
  }

 private:
  static size_t piece(size_t bytes) { return std::bit_ceil(std::max<size_t>(bytes, 256)); }
  void grow(size_t least) {
    const size_t bytes = std::max(least, size_t{64} << 20);
    if constexpr (kHasCuda) next_ = static_cast<char*>(cuda::allocate_shared(bytes));  // given back by the system
    end_ = next_ + bytes;
  }
  std::array<std::vector<void*>, 64> free_;
  char *next_ = nullptr, *end_ = nullptr;
};

Pool& pool() {
  static Pool* shared = new Pool;  // outlives every static tensor
  return *shared;
}

}  // namespace

bool has_gpu() {
  static const bool usable = why_unusable({Device::Kind::cuda, 0}).empty();
  return usable;
}

void* allocate_shared(size_t bytes) { return has_gpu() ? pool().allocate(bytes) : ::operator new(bytes); }

void release_shared(void* memory, size_t bytes) {
  if (has_gpu())
    pool().release(memory, bytes);
  else
    ::operator delete(memory);
}

}  // namespace sluice::test
