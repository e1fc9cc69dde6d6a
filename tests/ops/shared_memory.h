// Memory of test tensors: the GPU, where this build and this machine have one, reads and writes it at the same address,
// so that one test serves both devices.
#pragma once
#include <cstddef>

namespace sluice::test {

/// Whether ops can be tested on a GPU.
bool has_gpu();

void* allocate_shared(size_t bytes);
void release_shared(void* memory, size_t bytes);

/// For std::vector.
template <class T>
struct SharedAllocator {
  using value_type = T;
  SharedAllocator() = default;
  template <class U>
  SharedAllocator(const SharedAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(allocate_shared(n * sizeof(T))); }
  void deallocate(T* p, size_t n) { release_shared(p, n * sizeof(T)); }
  bool operator==(const SharedAllocator&) const { return true; }
};

}  // namespace sluice::test
