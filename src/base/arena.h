// Memory: a few arenas own it, tensors are views into them. Ops never allocate.
#pragma once
#include <cstddef>
#include <initializer_list>

#include "base/tensor.h"

namespace sluice {

/// A stack of tensors in one reserved block of host memory. Pages are taken from the system when first written, so the
/// capacity costs address space only. An arena without memory (`Arena::counting()`) hands out tensors without memory
/// and counts: a dry run of a step in which no op touches data gives the peak of the real one.
class Arena {
 public:
  explicit Arena(size_t capacity_bytes);
  /// An arena that counts only.
  static Arena counting();
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Uninitialised packed tensor, 64-byte aligned; owned by the arena until released. Throws Error when full.
  Tensor alloc(DType dtype, std::initializer_list<int64_t> dims);
  Tensor f32(int64_t rows, int64_t cols) { return alloc(DType::f32, {rows, cols}); }

  size_t mark() const { return used_; }
  /// Frees everything allocated since `mark()` returned `mark`.
  void release(size_t mark) { used_ = mark; }
  size_t peak_bytes() const { return peak_; }

 private:
  Arena() = default;
  char* base_ = nullptr;
  size_t capacity_ = 0, used_ = 0, peak_ = 0;
  bool counting_ = false;
};

}  // namespace sluice
