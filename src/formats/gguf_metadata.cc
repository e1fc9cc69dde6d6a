// Metadata of GGUF files as C++ values. parse_gguf has checked every length.
#include <array>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/json.h"

namespace sluice {
namespace {

constexpr std::array<const char*, kNumGgufTypes> kTypeNames = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                               "bool", "string", "array", "u64", "i64", "f64"};

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

/// Calls `fn` with the element at `p` in its own C++ type. Returns the bytes it takes.
template <class F>
size_t visit_element(GgufType type, const std::byte* p, F&& fn) {
  const auto number = [&]<class T>(T value) {
    fn(value);
    return sizeof(T);
  };
  switch (type) {
    case GgufType::u8:
      return number(load<uint8_t>(p));
    case GgufType::i8:
      return number(load<int8_t>(p));
    case GgufType::u16:
      return number(load<uint16_t>(p));
    case GgufType::i16:
      return number(load<int16_t>(p));
    case GgufType::u32:
      return number(load<uint32_t>(p));
    case GgufType::i32:
      return number(load<int32_t>(p));
    case GgufType::f32:
      return number(load<float>(p));
    case GgufType::boolean:
      return number(load<uint8_t>(p) != 0);
    case GgufType::u64:
      return number(load<uint64_t>(p));
    case GgufType::i64:
      return number(load<int64_t>(p));
    case GgufType::f64:
      return number(load<double>(p));
    case GgufType::string: {
      const std::string_view text(reinterpret_cast<const char*>(p) + 8, load<uint64_t>(p));
      fn(text);
      return 8 + text.size();
    }
    case GgufType::array:
      break;
  }
  throw_bug("visit_element: an array is no element", __FILE__, __LINE__);
}

/// Sets `result` to an element of type V, unless that is of another kind than T or does not fit.
template <class T, class V>
void convert(std::optional<T>& result, [[maybe_unused]] V element) {
  if constexpr (std::is_same_v<T, V> || (std::is_same_v<T, double> && std::is_same_v<V, float>)) {
    result = element;
  } else if constexpr (std::is_same_v<T, int64_t> && std::is_integral_v<V> && !std::is_same_v<V, bool>) {
    if (std::in_range<int64_t>(element)) result = static_cast<int64_t>(element);
  }
}

/// What T is called in messages, and the conversion of a value: none when that is of another kind or does not fit.
template <class T>
struct Reader {
  static constexpr const char* kExpected = std::is_same_v<T, int64_t>  ? "an integer below 2^63"
                                           : std::is_same_v<T, double> ? "a float"
                                           : std::is_same_v<T, bool>   ? "a bool"
                                                                       : "a string";
  static std::optional<T> read(const GgufValue& value) {
    std::optional<T> result;
    if (!value.is_array) visit_element(value.type, value.bytes.data(), [&](auto e) { convert(result, e); });
    return result;
  }
};

template <class T>
struct Reader<std::vector<T>> {
  static constexpr const char* kExpected = std::is_same_v<T, int64_t>  ? "an array of integers below 2^63"
                                           : std::is_same_v<T, double> ? "an array of floats"
                                                                       : "an array of strings";
  static std::optional<std::vector<T>> read(const GgufValue& value) {
    if (!value.is_array) return std::nullopt;
    std::vector<T> elements;
    const std::byte* p = value.bytes.data();
    for (uint64_t i = 0; i < value.count; ++i) {
      std::optional<T> element;
      p += visit_element(value.type, p, [&](auto e) { convert(element, e); });
      if (!element) return std::nullopt;
      if (i == 0) elements.reserve(value.count);  // not before the type is known to fit: the count may be huge
      elements.push_back(*element);
    }
    return elements;
  }
};

}  // namespace

std::string gguf_excerpt(const GgufValue& value) {
  const char* type = kTypeNames[static_cast<size_t>(value.type)];
  if (value.is_array) return fmt::format("an array of {} ({})", value.count, type);
  std::string text;
  visit_element(value.type, value.bytes.data(), [&]<class V>(V element) {
    if constexpr (std::is_same_v<V, std::string_view>) {
      text = json_excerpt(std::string(element.substr(0, 100)));  // which is cut further
    } else {
      text = fmt::format("{}", element);
    }
  });
  return fmt::format("{} ({})", text, type);
}

void GgufMetadata::add(const GgufValue& value) {
  if (!by_key_.emplace(value.key, values_.size()).second)
    fail("{}: {}: duplicate key", file_, json_excerpt(std::string(value.key)));
  values_.push_back(value);
}

const GgufValue* GgufMetadata::value(std::string_view key) const {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : &values_[it->second];
}

template <class T>
std::optional<T> GgufMetadata::find(std::string_view key) const {
  const GgufValue* found = value(key);
  if (!found) return std::nullopt;
  std::optional<T> result = Reader<T>::read(*found);
  if (!result) fail("{}: {}: expected {}, found {}", file_, key, Reader<T>::kExpected, gguf_excerpt(*found));
  return result;
}

template <class T>
T GgufMetadata::get(std::string_view key) const {
  std::optional<T> result = find<T>(key);
  if (!result) fail("{}: {}: expected {}, found nothing", file_, key, Reader<T>::kExpected);
  return *std::move(result);
}

template int64_t GgufMetadata::get(std::string_view) const;
template double GgufMetadata::get(std::string_view) const;
template bool GgufMetadata::get(std::string_view) const;
template std::string_view GgufMetadata::get(std::string_view) const;
template std::vector<int64_t> GgufMetadata::get(std::string_view) const;
template std::vector<double> GgufMetadata::get(std::string_view) const;
template std::vector<std::string_view> GgufMetadata::get(std::string_view) const;
template std::optional<int64_t> GgufMetadata::find(std::string_view) const;
template std::optional<double> GgufMetadata::find(std::string_view) const;
template std::optional<bool> GgufMetadata::find(std::string_view) const;
template std::optional<std::string_view> GgufMetadata::find(std::string_view) const;
template std::optional<std::vector<int64_t>> GgufMetadata::find(std::string_view) const;
template std::optional<std::vector<double>> GgufMetadata::find(std::string_view) const;
template std::optional<std::vector<std::string_view>> GgufMetadata::find(std::string_view) const;

}  // namespace sluice
