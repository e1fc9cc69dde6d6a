#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/fp8.h"
#include "formats/json.h"

namespace sluice {
namespace {

struct DTypeRow {
  StDType dtype;
  std::string_view name;
  size_t size;
  std::optional<DType> base;
};

constexpr std::array<DTypeRow, kNumStDTypes> kDTypes = {{
    {StDType::boolean, "BOOL", 1, {}},
    {StDType::u8, "U8", 1, DType::u8},
    {StDType::i8, "I8", 1, {}},
    {StDType::u16, "U16", 2, {}},
    {StDType::i16, "I16", 2, {}},
    {StDType::f16, "F16", 2, DType::f16},
    {StDType::bf16, "BF16", 2, DType::bf16},
    {StDType::u32, "U32", 4, {}},
    {StDType::i32, "I32", 4, DType::i32},
    {StDType::f32, "F32", 4, DType::f32},
    {StDType::u64, "U64", 8, {}},
    {StDType::i64, "I64", 8, DType::i64},
    {StDType::f64, "F64", 8, DType::f64},
    {StDType::f8_e4m3, "F8_E4M3", 1, DType::f8_e4m3},
    {StDType::f8_e5m2, "F8_E5M2", 1, {}},
    {StDType::f8_e8m0, "F8_E8M0", 1, {}},
}};

const DTypeRow& row(StDType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

/// Reads elements of any alignment and converts each with `convert`.
template <class T, class F>
void convert_all(const std::byte* bytes, std::span<float> out, F&& convert) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

}  // namespace

std::string_view st_dtype_name(StDType dtype) { return row(dtype).name; }
size_t st_dtype_size(StDType dtype) { return row(dtype).size; }
std::optional<DType> to_dtype(StDType dtype) { return row(dtype).base; }

StDType from_dtype(DType dtype) {
  const auto it = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& r) { return r.base == dtype; });
  check(it != kDTypes.end(), "from_dtype: a DType that safetensors lacks");
  return it->dtype;
}

std::optional<StDType> parse_st_dtype(std::string_view name) {
  for (const DTypeRow& r : kDTypes)
    if (r.name == name) return r.dtype;
  return std::nullopt;
}

Tensor SafetensorsEntry::tensor() const {
  const auto base = to_dtype(dtype);
  if (!base) fail("{}: {}: dtype {} cannot be read as a tensor", file, json_excerpt(name), st_dtype_name(dtype));
  if (shape.size() > 4) fail("{}: {}: expected at most 4 dimensions, found {}", file, json_excerpt(name), shape.size());
  if (reinterpret_cast<uintptr_t>(bytes.data()) % st_dtype_size(dtype) != 0)
    fail("{}: {}: expected data aligned to {} bytes", file, json_excerpt(name), st_dtype_size(dtype));
  Tensor t;
  t.data = const_cast<std::byte*>(bytes.data());
  t.dtype = *base;
  for (const int64_t d : shape) t.shape[static_cast<size_t>(t.rank++)] = d;
  if (shape.empty()) t.shape[static_cast<size_t>(t.rank++)] = 1;
  t.ld = t.cols();
  return t;
}

void SafetensorsEntry::read_f32(int64_t begin, std::span<float> out) const {
  check(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= size(), "SafetensorsEntry::read_f32: out of range");
  const std::byte* p = bytes.data() + static_cast<size_t>(begin) * st_dtype_size(dtype);
  switch (dtype) {
    case StDType::f32:
      return convert_all<float>(p, out, [](float v) { return v; });
    case StDType::f64:
      return convert_all<double>(p, out, [](double v) { return static_cast<float>(v); });
    case StDType::f16:
      return convert_all<uint16_t>(p, out, f16_to_f32);
    case StDType::bf16:
      return convert_all<bf16>(p, out, [](bf16 v) { return static_cast<float>(v); });
    case StDType::f8_e4m3:
      return convert_all<uint8_t>(p, out, e4m3_to_f32);
    default:
      fail("{}: {}: dtype {} cannot be read as numbers", file, json_excerpt(name), st_dtype_name(dtype));
  }
}

std::vector<float> SafetensorsEntry::read_f32() const {
  std::vector<float> values(static_cast<size_t>(size()));
  read_f32(0, values);
  return values;
}

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : file_(path), header_(parse_safetensors(file_.bytes(), path.string())) {
  for (size_t i = 0; i < header_.entries.size(); ++i) by_name_[header_.entries[i].name] = i;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &header_.entries[it->second];
}

const SafetensorsEntry& SafetensorsFile::get(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry) fail("{}: expected a tensor \"{}\", found none", path().string(), name);
  return *entry;
}

}  // namespace sluice
