#include "base/device.h"

#include <charconv>

#include "base/config.h"
#include "base/cuda/runtime.h"
#include "base/error.h"

namespace sluice {

Device parse_device(std::string_view text) {
  constexpr std::string_view kCuda = "cuda", kNumbered = "cuda:";
  if (text == "cpu") return {};
  if (text == kCuda) return {Device::Kind::cuda, 0};
  Device device{Device::Kind::cuda, 0};
  const char* end = text.data() + text.size();
  if (text.starts_with(kNumbered)) {
    const auto [stop, error] = std::from_chars(text.data() + kNumbered.size(), end, device.index);
    if (error == std::errc() && stop == end && device.index >= 0) return device;
  }
  fail("device: expected cpu, cuda or cuda:N, found '{}'", text);
}

std::string device_text(const Device& device) {
  return device.is_cuda() ? fmt::format("cuda:{}", device.index) : "cpu";
}

std::string why_unusable(const Device& device) {
  if (!device.is_cuda()) return {};
  if constexpr (kHasCuda) return cuda::why_unusable(device.index);
  return "this program was built without CUDA";
}

size_t free_memory(const Device& device) {
  check(device.is_cuda(), "free_memory: expected a GPU");
  if constexpr (kHasCuda) return cuda::free_memory(device.index);
  return 0;
}

}  // namespace sluice
