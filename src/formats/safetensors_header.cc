// The header of a safetensors file. It comes from anywhere and may be 100 MB of JSON, so it is read as a stream of
// events straight into entries: anything unexpected ends the reading at once.
#include <algorithm>
#include <cstring>
#include <set>
#include <unordered_set>

#include "base/error.h"
#include "formats/json.h"
#include "formats/safetensors.h"

namespace sluice {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxRank = 64;

class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(SafetensorsHeader& header, std::span<const std::byte> data, const std::string& file)
      : header_(header), data_(data), file_(file) {}

  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { unexpected(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { unexpected(text); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::shape && value <= static_cast<uint64_t>(INT64_MAX) && entry_.shape.size() < kMaxRank) {
      entry_.shape.push_back(static_cast<int64_t>(value));
    } else if (state_ == State::offsets && num_offsets_ < 2) {
      offsets_[num_offsets_++] = value;
    } else {
      unexpected(std::to_string(value));
    }
    return true;
  }
  bool string(string_t& value) override;
  bool start_object(size_t) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool key(string_t& name) override;
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override {
    fail("{}: header: malformed JSON: {}", file_, json_message(e));
  }

 private:
  enum class State { start, top, metadata, tensor, shape, offsets };

  /// "file: tensor: field", as far as known.
  std::string where() const {
    std::string text = file_;
    if (state_ == State::start || state_ == State::top) return text + ": header";
    text += ": " + json_excerpt(state_ == State::metadata ? "__metadata__" : entry_.name);
    if (!field_.empty()) text += ": " + json_excerpt(field_);
    return text;
  }
  const char* expected() const {
    switch (state_) {
      case State::start:
        return "a JSON object";
      case State::top:
        return "an object";
      case State::metadata:
        return "a string";
      case State::shape:
        return "an array of at most 64 integers >= 0";
      case State::offsets:
        return "an array of two integers >= 0";
      case State::tensor:
        break;
    }
    return field_ == "dtype" ? "a string" : field_ == "data_offsets" ? "an array of two integers >= 0" : "an array";
  }
  [[noreturn]] void unexpected(const std::string& found) const {
    fail("{}: expected {}, found {}", where(), expected(), found);
  }
  void finish_tensor();

  SafetensorsHeader& header_;
  std::span<const std::byte> data_;
  const std::string& file_;
  State state_ = State::start;
  std::unordered_set<std::string> names_;
  bool has_metadata_ = false;
  SafetensorsEntry entry_;        // being read
  std::string field_;             // of it, or the key of __metadata__
  std::set<std::string> fields_;  // of it, read so far
  std::array<uint64_t, 2> offsets_{};
  size_t num_offsets_ = 0;
};

bool HeaderReader::key(string_t& name) {
  if (state_ == State::top) {
    entry_ = {};
    entry_.name = name;
    entry_.file = file_;
    fields_.clear();
    num_offsets_ = 0;
    if (name == "__metadata__" ? std::exchange(has_metadata_, true) : !names_.insert(name).second)
      fail("{}: header: duplicate key {}", file_, json_excerpt(name));
  } else if (state_ == State::metadata) {
    field_ = name;
    if (header_.metadata.contains(name)) fail("{}: duplicate key", where());
  } else {
    field_ = name;
    if (name != "dtype" && name != "shape" && name != "data_offsets") fail("{}: unknown field", where());
    if (!fields_.insert(name).second) fail("{}: duplicate key", where());
  }
  return true;
}

bool HeaderReader::string(string_t& value) {
  if (state_ == State::metadata) {
    header_.metadata[field_] = value;
  } else if (state_ == State::tensor && field_ == "dtype") {
    const auto dtype = parse_st_dtype(value);
    if (!dtype) fail("{}: unknown dtype {}", where(), json_excerpt(value));
    entry_.dtype = *dtype;
  } else {
    unexpected(json_excerpt(value));
  }
  return true;
}

bool HeaderReader::start_object(size_t) {
  if (state_ == State::start) {
    state_ = State::top;
  } else if (state_ == State::top) {
    state_ = entry_.name == "__metadata__" ? State::metadata : State::tensor;
    field_.clear();
  } else {
    unexpected("an object");
  }
  return true;
}

bool HeaderReader::end_object() {
  if (state_ == State::tensor) finish_tensor();
  state_ = State::top;
  return true;
}

bool HeaderReader::start_array(size_t) {
  if (state_ == State::tensor && field_ == "shape") {
    state_ = State::shape;
  } else if (state_ == State::tensor && field_ == "data_offsets") {
    state_ = State::offsets;
  } else {
    unexpected("an array");
  }
  return true;
}

bool HeaderReader::end_array() {
  if (state_ == State::offsets && num_offsets_ != 2) unexpected(std::to_string(num_offsets_) + " of them");
  state_ = State::tensor;
  return true;
}

void HeaderReader::finish_tensor() {
  field_.clear();
  for (const char* name : {"dtype", "shape", "data_offsets"})
    if (!fields_.contains(name)) fail("{}: expected a field \"{}\", found none", where(), name);
  uint64_t bytes = st_dtype_size(entry_.dtype);
  for (const int64_t d : entry_.shape)
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(d), &bytes))
      fail("{}: \"shape\": the size overflows 64 bits", where());
  const auto [begin, end] = offsets_;
  if (begin > end || end > data_.size())
    fail("{}: \"data_offsets\": expected begin <= end <= {} (bytes of data in the file), found [{},{}]", where(),
         data_.size(), begin, end);
  if (end - begin != bytes)
    fail("{}: \"data_offsets\": expected {} bytes (dtype and shape), found {}", where(), bytes, end - begin);
  entry_.bytes = data_.subspan(begin, end - begin);
  header_.entries.push_back(std::move(entry_));
}

/// Sorts the entries by position and throws Error unless they cover the data without hole or overlap.
void check_coverage(SafetensorsHeader& header, std::span<const std::byte> data, const std::string& file) {
  const auto begin = [&](const SafetensorsEntry& e) { return static_cast<size_t>(e.bytes.data() - data.data()); };
  std::stable_sort(header.entries.begin(), header.entries.end(), [&](const auto& a, const auto& b) {
    return begin(a) != begin(b) ? begin(a) < begin(b) : a.bytes.size() < b.bytes.size();
  });
  size_t expected = 0;
  for (const SafetensorsEntry& e : header.entries) {
    if (begin(e) != expected)
      fail("{}: {}: \"data_offsets\": {}: expected the data to begin at {}, found {}", file, json_excerpt(e.name),
           begin(e) < expected ? "overlap" : "hole", expected, begin(e));
    expected += e.bytes.size();
  }
  if (expected != data.size()) fail("{}: expected {} bytes of data (header), found {}", file, expected, data.size());
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < 8) fail("{}: header length: expected 8 bytes, found {}", file, bytes.size());
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i) length |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (length > kMaxHeaderBytes) fail("{}: header length: expected at most {}, found {}", file, kMaxHeaderBytes, length);
  if (length > bytes.size() - 8)
    fail("{}: truncated: expected a header of {} bytes, found {}", file, length, bytes.size() - 8);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  // The library would skip a byte order mark before and take a zero byte for the end.
  if (!text.starts_with('{')) fail("{}: header: expected a JSON object that starts with '{{'", file);
  if (text.find('\0') != text.npos) fail("{}: header: expected JSON text, found a zero byte", file);
  SafetensorsHeader header;
  const auto data = bytes.subspan(8 + length);
  HeaderReader reader(header, data, file);
  nlohmann::json::sax_parse(text, &reader);
  check_coverage(header, data, file);
  return header;
}

}  // namespace sluice
