// Reads arbitrary bytes as a safetensors file. To get past the length field quickly, the first byte chooses: even, the
// rest is a whole file; odd, the next byte is the number of bytes of data and the rest the header.
#include <cstdint>
#include <string>

#include "base/error.h"
#include "formats/safetensors.h"

namespace {

void read_all(std::span<const std::byte> bytes) {
  const sluice::SafetensorsHeader header = sluice::parse_safetensors(bytes, "f");
  size_t total = 0;
  for (const sluice::SafetensorsEntry& e : header.entries) {
    total += e.bytes.size();
    try {
      (void)e.read_f32();
      (void)e.tensor();
    } catch (const sluice::Error&) {
    }
  }
  if (total > bytes.size()) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 1) {
    const std::string header = file.substr(1);
    file.assign(8, '\0');
    for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
    file += header + std::string(data[1], '\1');
  }
  try {
    read_all(std::as_bytes(std::span(file)));
  } catch (const sluice::Error&) {
  }
  return 0;
}
