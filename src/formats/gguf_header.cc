// The header of a GGUF file. It comes from anywhere: no length or count in it is believed before it has been compared
// with what is left of the file.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/json.h"

namespace sluice {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr size_t kMaxKeyBytes = 65535, kMaxNameBytes = 64;
// What the shortest entries take: a key of one byte with a u8, a one-dimensional tensor with a name of one byte.
constexpr uint64_t kMinValueBytes = 8 + 1 + 4 + 1, kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
// Of elements, by type; a string has a length at least.
constexpr std::array<uint64_t, kNumGgufTypes> kElementBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};

class HeaderReader {
 public:
  HeaderReader(std::span<const std::byte> bytes, const std::string& file)
      : bytes_(bytes), rest_(bytes), file_(file), header_{.metadata = GgufMetadata(file), .tensors = {}} {}
  GgufHeader read();

 private:
  /// "file: entry", by name when that has been read.
  std::string where() const {
    if (!name_.empty()) return fmt::format("{}: {}", file_, json_excerpt(std::string(name_)));
    return kind_ ? fmt::format("{}: {} {}", file_, kind_, index_) : file_;
  }
  std::span<const std::byte> take(uint64_t size, const char* what) {
    if (size > rest_.size()) fail("{}: {}: truncated: expected {} bytes, found {}", where(), what, size, rest_.size());
    const auto bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    return bytes;
  }
  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string_view string(const char* what) {
    const auto text = take(number<uint64_t>(what), what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }
  /// The key or name of the entry, which messages then give.
  std::string_view name(const char* what, size_t max_bytes) {
    const std::string_view text = string(what);
    if (text.empty() || text.size() > max_bytes)
      fail("{}: {}: expected 1 to {} bytes, found {}", where(), what, max_bytes, text.size());
    // Messages and listings print names: they must not break the line or steer a terminal.
    if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
      fail("{}: {}: expected no control characters, found {}", where(), what, json_excerpt(std::string(text)));
    return name_ = text;
  }
  void start_entry(const char* kind, uint64_t index) {
    kind_ = kind;
    index_ = index;
    name_ = {};
  }
  GgufType value_type(const char* what) {
    const auto id = number<uint32_t>(what);
    if (id >= kNumGgufTypes)
      fail("{}: {}: expected a type from 0 to {}, found {}", where(), what, kNumGgufTypes - 1, id);
    return static_cast<GgufType>(id);
  }
  void read_magic();
  uint64_t read_count(const char* what, uint64_t min_bytes);
  void read_value();
  std::span<const std::byte> read_elements(GgufType type, uint64_t count);
  void read_alignment();
  void read_tensor();
  void place_tensors();
  void check_overlap() const;

  std::span<const std::byte> bytes_, rest_;
  const std::string& file_;
  const char* kind_ = nullptr;  // of the entry being read
  uint64_t index_ = 0;
  std::string_view name_;
  GgufHeader header_;
  std::unordered_set<std::string_view> names_;         // of tensors
  std::vector<std::pair<uint64_t, uint64_t>> places_;  // of tensors: offset and bytes of the data
};

void HeaderReader::read_magic() {
  const auto magic = rest_.first(std::min<size_t>(rest_.size(), 4));
  const std::string text(reinterpret_cast<const char*>(magic.data()), magic.size());
  // Files for big-endian machines: known writers swap the version only.
  constexpr const char* kBigEndian = "{}: expected a little-endian GGUF file, found a big-endian one: convert it";
  if (text == "FUGG") fail(kBigEndian, file_);
  if (text != "GGUF") fail("{}: magic: expected \"GGUF\", found {}", file_, json_excerpt(text));
  rest_ = rest_.subspan(4);
  header_.version = number<uint32_t>("version");
  if (header_.version == 0x02000000 || header_.version == 0x03000000) fail(kBigEndian, file_);
  if (header_.version != 2 && header_.version != 3)
    fail("{}: version: expected 2 or 3, found {}", file_, header_.version);
}

uint64_t HeaderReader::read_count(const char* what, uint64_t min_bytes) {
  const auto count = number<uint64_t>(what);
  if (count > rest_.size() / min_bytes)
    fail("{}: {}: expected at most {} in {} bytes, found {}", file_, what, rest_.size() / min_bytes, rest_.size(),
         count);
  return count;
}

std::span<const std::byte> HeaderReader::read_elements(GgufType type, uint64_t count) {
  const uint64_t size = kElementBytes[static_cast<size_t>(type)];
  if (count > rest_.size() / size)
    fail("{}: value: truncated: expected {} elements of {} bytes, found {} bytes", where(), count, size, rest_.size());
  const auto before = rest_;
  if (type == GgufType::string) {
    for (uint64_t i = 0; i < count; ++i) string("value");
  } else {
    take(count * size, "value");
  }
  const auto bytes = before.first(before.size() - rest_.size());
  if (type == GgufType::boolean)
    for (const std::byte b : bytes)
      if (b > std::byte{1}) fail("{}: expected a bool (0 or 1), found {}", where(), static_cast<int>(b));
  return bytes;
}

void HeaderReader::read_value() {
  GgufValue value;
  value.key = name("key", kMaxKeyBytes);
  value.type = value_type("type");
  if (value.type == GgufType::array) {
    value.is_array = true;
    value.type = value_type("type of the elements");
    if (value.type == GgufType::array) fail("{}: expected an array of plain values, found an array of arrays", where());
    value.count = number<uint64_t>("length");
  }
  value.bytes = read_elements(value.type, value.count);
  header_.metadata.add(value);
}

void HeaderReader::read_alignment() {
  const int64_t alignment = header_.metadata.find<int64_t>("general.alignment").value_or(32);
  // 8 is the format's minimum, and keeps elements of every plain type aligned.
  if (alignment < 8 || alignment > INT32_MAX || !std::has_single_bit(static_cast<uint64_t>(alignment)))
    fail("{}: general.alignment: expected a power of two from 8 to 2^30, found {}", file_, alignment);
  header_.alignment = static_cast<uint64_t>(alignment);
}

void HeaderReader::read_tensor() {
  GgufTensor t;
  t.file = file_;
  t.name = name("name", kMaxNameBytes);
  if (!names_.insert(name_).second) fail("{}: duplicate tensor", where());
  const auto num_dims = number<uint32_t>("number of dimensions");
  if (num_dims < 1 || num_dims > 4) fail("{}: expected 1 to 4 dimensions, found {}", where(), num_dims);
  for (uint32_t i = 0; i < num_dims; ++i) {
    const auto d = number<uint64_t>("dimensions");
    if (d < 1 || d > static_cast<uint64_t>(INT64_MAX))
      fail("{}: dimensions: expected integers from 1 to 2^63 - 1, found {}", where(), d);
    t.dims.push_back(static_cast<int64_t>(d));
  }
  const auto id = number<uint32_t>("type");
  const auto type = find_ggml_type(id);
  if (!type) fail("{}: type: expected the id of a known type, found {}", where(), id);
  t.type = *type;
  const GgmlTypeInfo& info = ggml_type_info(t.type);
  if (t.dims[0] % info.block_elements != 0)
    fail("{}: dimensions: expected a multiple of {} (type {}) first, found {}", where(), info.block_elements, info.name,
         t.dims[0]);
  const auto bytes = ggml_bytes(t.type, t.dims);
  if (!bytes) fail("{}: dimensions: the size overflows 64 bits", where());
  const auto offset = number<uint64_t>("offset");
  if (offset % header_.alignment != 0)
    fail("{}: offset: expected a multiple of {}, found {}", where(), header_.alignment, offset);
  places_.emplace_back(offset, *bytes);
  header_.tensors.push_back(std::move(t));
}

void HeaderReader::place_tensors() {
  const size_t end = bytes_.size() - rest_.size();
  const size_t begin = std::min((end + header_.alignment - 1) / header_.alignment * header_.alignment, bytes_.size());
  const auto data = bytes_.subspan(begin);
  for (size_t i = 0; i < header_.tensors.size(); ++i) {
    const auto [offset, size] = places_[i];
    name_ = header_.tensors[i].name;
    if (offset > data.size() || size > data.size() - offset)
      fail("{}: truncated: expected {} bytes of data at offset {}, found {} bytes of data in the file", where(), size,
           offset, data.size());
    header_.tensors[i].bytes = data.subspan(offset, size);
  }
}

void HeaderReader::check_overlap() const {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& t : header_.tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->bytes.data() < b->bytes.data(); });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i - 1]->bytes.data() + order[i - 1]->bytes.size() > order[i]->bytes.data())
      fail("{}: {}: offset: the data overlaps that of {}", file_, json_excerpt(order[i]->name),
           json_excerpt(order[i - 1]->name));
}

GgufHeader HeaderReader::read() {
  read_magic();
  const uint64_t num_tensors = read_count("number of tensors", kMinTensorBytes);
  const uint64_t num_values = read_count("number of metadata values", kMinValueBytes);
  for (uint64_t i = 0; i < num_values; ++i) {
    start_entry("metadata", i);
    read_value();
  }
  read_alignment();
  for (uint64_t i = 0; i < num_tensors; ++i) {
    start_entry("tensor", i);
    read_tensor();
  }
  place_tensors();
  check_overlap();
  return std::move(header_);
}

}  // namespace

GgufHeader parse_gguf(std::span<const std::byte> bytes, const std::string& file) {
  return HeaderReader(bytes, file).read();
}

}  // namespace sluice
