// Memory: a few arenas own it, tensors are views into them. Ops never allocate.
#pragma once
#include <cstddef>
#include <initializer_list>

#include "base/device.h"
#include "base/tensor.h"

namespace sluice {

/// A stack of tensors in one reserved block of memory. Host memory is taken from the system page by page when first
/// written, so the capacity costs address space only; a GPU's is taken at once. An arena without memory
/// (`Arena::counting()`) hands out tensors without memory and counts: a dry run of a step in which no op touches data
/// gives the peak of the real one.
class Arena {
 public:
  /// Throws Error when the device has too little memory.
  explicit Arena(size_t capacity_bytes, const Device& device = {});
  /// An arena that counts only, as for memory of `device`.
  static Arena counting(const Device& device = {});
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Packed tensor, 64-byte aligned, zero where the memory is used for the first time; owned by the arena until
  /// released. Throws Error when full.
  Tensor alloc(DType dtype, std::initializer_list<int64_t> dims);
  Tensor f32(int64_t rows, int64_t cols) { return alloc(DType::f32, {rows, cols}); }

  const Device& device() const { return device_; }

  size_t mark() const { return used_; }
  /// Frees everything allocated since `mark()` returned `mark`.
  void release(size_t mark) { used_ = mark; }
  size_t peak_bytes() const { return peak_; }

 private:
  Arena() = default;
  Device device_;
  char* base_ = nullptr;
  size_t capacity_ = 0, used_ = 0, peak_ = 0;
  bool counting_ = false;
};

}  // namespace sluice
