#include "formats/gguf_writer.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kAlignment = 32;  // the format's default

uint64_t align(uint64_t position) { return (position + kAlignment - 1) / kAlignment * kAlignment; }

template <class T>
void put(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

std::string make_header(const GgufMetadataBuilder& metadata, const std::vector<GgufSpec>& tensors) {
  std::string header = "GGUF";
  put(header, uint32_t{3});
  put(header, uint64_t{tensors.size()});
  put(header, metadata.count());
  header += metadata.bytes();
  std::unordered_set<std::string_view> names;
  uint64_t offset = 0;
  for (const GgufSpec& t : tensors) {
    check(!t.name.empty() && t.name.size() < 64 && names.insert(t.name).second,
          "GgufWriter: expected different names of 1 to 63 bytes");
    put(header, uint64_t{t.name.size()});
    header += t.name;
    put(header, static_cast<uint32_t>(t.dims.size()));
    for (const int64_t d : t.dims) put(header, d);
    put(header, static_cast<uint32_t>(t.type));
    put(header, offset);
    offset += align(t.bytes());
  }
  header.resize(align(header.size()), '\0');
  return header;
}

}  // namespace

void GgufMetadataBuilder::start(std::string_view key, GgufType type) {
  check(!key.empty() && key.size() <= 65535 && key != "general.alignment" && keys_.emplace(key).second,
        "GgufMetadataBuilder: expected a new key of 1 to 65535 bytes");
  put(key);
  put(static_cast<uint32_t>(type));
}

uint64_t GgufSpec::bytes() const {
  check(!dims.empty() && dims.size() <= 4, "GgufSpec: expected 1 to 4 dimensions");
  const auto bytes = ggml_bytes(type, dims);
  check(bytes.has_value(), "GgufSpec: the size overflows");
  return *bytes;
}

GgufWriter::GgufWriter(const fs::path& path, const GgufMetadataBuilder& metadata, std::vector<GgufSpec> tensors)
    : file_(path), tensors_(std::move(tensors)) {
  file_.write(make_header(metadata, tensors_));
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    check(current_ < tensors_.size(), "GgufWriter: more data than announced");
    const uint64_t size = tensors_[current_].bytes();
    const auto piece = bytes.first(std::min<uint64_t>(bytes.size(), size - written_));
    file_.write(piece);
    written_ += piece.size();
    bytes = bytes.subspan(piece.size());
    if (written_ < size) continue;
    file_.write(std::string(align(size) - size, '\0'));
    written_ = 0;
    ++current_;
  }
}

void GgufWriter::commit() {
  check(current_ == tensors_.size(), "GgufWriter: less data than announced");
  file_.commit();
}

}  // namespace sluice
