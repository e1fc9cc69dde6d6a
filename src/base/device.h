// Where tensors lie and ops run.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

/// The processor, or one of the machine's GPUs.
struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;  // of the GPU

  bool is_cuda() const { return kind == Kind::cuda; }
  bool operator==(const Device&) const = default;
};

/// "cpu", "cuda" (the first GPU) or "cuda:N". Throws Error for anything else.
Device parse_device(std::string_view text);

/// "cpu", "cuda:0", ...
std::string device_text(const Device& device);

/// Why nothing can run there, as the end of a sentence: no GPU, an older one, an older driver, a build without CUDA.
/// Empty where it can.
std::string why_unusable(const Device& device);

/// Bytes of a GPU's memory that nobody has taken yet.
size_t free_memory(const Device& device);

}  // namespace sluice
