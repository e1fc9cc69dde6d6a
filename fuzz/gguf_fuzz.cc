// Reads arbitrary bytes as a GGUF file and walks all that was found: what is accepted must lie inside the file, and the
// writer's view of the types must agree with the reader's. The metadata are read as a model's configuration and as a
// tokenizer, which must lose no byte of a text.
#include <cstdint>
#include <numeric>
#include <string_view>

#include "base/error.h"
#include "convert/gguf_config.h"
#include "convert/gguf_tokenizer.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"

namespace {

void expect(bool condition) {
  if (!condition) __builtin_trap();
}

template <class F>
void accept_errors(F&& fn) {
  try {
    fn();
  } catch (const sluice::Error& e) {
    expect(std::string_view(e.what()).find('\n') == std::string_view::npos);  // messages are one line
  }
}

/// Asks for the value as each type there is.
void read_value(const sluice::GgufMetadata& metadata, const sluice::GgufValue& value) {
  expect(metadata.value(value.key) == &value);
  expect(sluice::gguf_excerpt(value).find('\n') == std::string::npos);
  accept_errors([&] { (void)metadata.get<int64_t>(value.key); });
  accept_errors([&] { (void)metadata.get<double>(value.key); });
  accept_errors([&] { (void)metadata.get<bool>(value.key); });
  accept_errors([&] { (void)metadata.get<std::string_view>(value.key); });
  accept_errors([&] { (void)metadata.get<std::vector<int64_t>>(value.key); });
  accept_errors([&] { (void)metadata.get<std::vector<double>>(value.key); });
  accept_errors([&] {
    size_t size = 0;
    for (const std::string_view text : metadata.get<std::vector<std::string_view>>(value.key))
      size += 8 + std::accumulate(text.begin(), text.end(), size_t{0}, [](size_t n, char) { return n + 1; });
    expect(size == value.bytes.size());
  });
}

void read_model(const sluice::GgufMetadata& metadata) {
  accept_errors([&] {
    const sluice::HfConfig config = sluice::read_gguf_config(metadata);
    sluice::GgufMetadataBuilder builder;
    sluice::add_gguf_config(builder, config, sluice::GgufLayout::split, config.num_nextn_predict_layers);
  });
  accept_errors([&] {
    const auto data = sluice::read_gguf_tokenizer(metadata);
    if (!data) return;
    const sluice::Tokenizer tokenizer(*data);
    constexpr std::string_view kText = "<a> the Th\u00e9\u4f60\u597d, 123  \r\n\xff<b>";
    std::vector<int32_t> ids;
    tokenizer.encode(kText, false, ids);
    expect(tokenizer.decode(ids, false) == kText);
    tokenizer.encode(kText, true, ids);
    for (const int32_t id : ids) expect(id >= 0 && id < tokenizer.vocab_size());
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  accept_errors([&] {
    const auto bytes = std::as_bytes(std::span(data, size));
    const sluice::GgufHeader header = sluice::parse_gguf(bytes, "f");
    for (const sluice::GgufValue& value : header.metadata.values()) read_value(header.metadata, value);
    read_model(header.metadata);
    size_t total = 0;
    uint8_t all = 0;
    for (const sluice::GgufTensor& t : header.tensors) {
      for (const std::byte b : t.bytes) all |= static_cast<uint8_t>(b);
      expect(sluice::GgufSpec{t.name, t.type, t.dims}.bytes() == t.bytes.size());
      expect(t.cols() >= 1 && t.rows() >= 1 && t.matrices() >= 1);
      total += t.bytes.size();
    }
    volatile uint8_t sink = all;  // keeps the reads
    (void)sink;
    expect(total <= size);
  });
  return 0;
}
