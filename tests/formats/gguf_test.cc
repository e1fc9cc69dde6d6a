#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "../base/temp_dir.h"
#include "base/rng.h"
#include "formats/gguf_writer.h"

namespace sluice {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }
std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Bytes of a file, written as the format has them.
struct Bytes {
  std::string text;
  template <class T>
  Bytes& put(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& u32(uint32_t value) { return put(value); }
  Bytes& u64(uint64_t value) { return put(value); }
  Bytes& str(std::string_view s) {
    u64(s.size()).text += s;
    return *this;
  }
  Bytes& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    str(name).u32(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) u64(d);
    return u32(type).u64(offset);
  }
  /// Padding to 32 and `data` zero bytes.
  Bytes& data(size_t data) {
    text.resize((text.size() + 31) / 32 * 32 + data);
    return *this;
  }
};

Bytes make_start(uint64_t num_tensors, uint64_t num_values, uint32_t version = 3) {
  Bytes b{"GGUF"};
  return b.u32(version).u64(num_tensors).u64(num_values);
}

GgufHeader parse(const std::string& file) { return parse_gguf(as_bytes(file), "t.gguf"); }

/// What the specification says, byte by byte: two values, a float32 matrix of 1 row and 3 columns, a float16 vector.
constexpr char kHandMadeBytes[] =
    "GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
    "\x04\0\0\0\0\0\0\0rank\x04\0\0\0\x07\0\0\0"
    "\x01\0\0\0\0\0\0\0m\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x02\0\0\0\0\0\0\0bc"
    "\x01\0\0\0\0\0\0\0w\x02\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "\x01\0\0\0\0\0\0\0v\x01\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x20\0\0\0\0\0\0\0"
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "ABCDEFGHIJKL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "wxyz\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const std::string kHandMade(kHandMadeBytes, sizeof(kHandMadeBytes) - 1);

TEST(Gguf, ReadsAHandMadeFile) {
  ASSERT_EQ(kHandMade.size() % 32, 0u);
  const GgufHeader h = parse(kHandMade);
  EXPECT_EQ(h.version, 3u);
  EXPECT_EQ(h.alignment, 32u);
  ASSERT_EQ(h.metadata.values().size(), 2u);
  EXPECT_EQ(h.metadata.values()[0].key, "rank");
  EXPECT_EQ(h.metadata.get<int64_t>("rank"), 7);
  EXPECT_EQ(h.metadata.get<std::vector<std::string_view>>("m"), (std::vector<std::string_view>{"a", "bc"}));
  ASSERT_EQ(h.tensors.size(), 2u);
  EXPECT_EQ(h.tensors[0].name, "w");
  EXPECT_EQ(h.tensors[0].type, GgmlType::f32);
  EXPECT_EQ(h.tensors[0].dims, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(as_text(h.tensors[0].bytes), "ABCDEFGHIJKL");
  EXPECT_EQ(h.tensors[1].name, "v");
  EXPECT_EQ(h.tensors[1].type, GgmlType::f16);
  EXPECT_EQ(h.tensors[1].dims, (std::vector<int64_t>{2}));
  EXPECT_EQ(as_text(h.tensors[1].bytes), "wxyz");
}

TEST(Gguf, WriterIsByteExact) {
  const TempDir dir;
  GgufMetadataBuilder metadata;
  metadata.add("rank", uint32_t{7}).add("m", std::vector<std::string>{"a", "bc"});
  GgufWriter writer(dir / "m.gguf", metadata, {{"w", GgmlType::f32, {3, 1}}, {"v", GgmlType::f16, {2}}});
  writer.write(as_bytes("ABCDE"));
  writer.write(as_bytes("FGHIJKLwx"));  // across the padding
  writer.write(as_bytes("yz"));
  EXPECT_FALSE(fs::exists(dir / "m.gguf"));
  writer.commit();
  EXPECT_EQ(read_file(dir / "m.gguf"), kHandMade);
}

TEST(Gguf, ReadsVersion2AndFilesWithoutTensors) {
  std::string file = kHandMade;
  file[4] = 2;
  EXPECT_EQ(parse(file).version, 2u);
  EXPECT_TRUE(parse(make_start(0, 0).text).tensors.empty());
  EXPECT_EQ(parse(make_start(0, 1).str("k").u32(7).put(true).text).metadata.get<bool>("k"), true);
}

TEST(Gguf, RoundTripOfEveryValueType) {
  const TempDir dir;
  using Strings = std::vector<std::string_view>;
  const std::string zero("a\0b", 3);
  GgufMetadataBuilder metadata;
  metadata.add("u8", uint8_t{255}).add("i8", int8_t{-128}).add("u16", uint16_t{65535}).add("i16", int16_t{-32768});
  metadata.add("u32", uint32_t{4294967295}).add("i32", INT32_MIN).add("f32", -0.1f).add("bool", true).add("f64", 0.1);
  metadata.add("string", "a é").add("empty", "").add("zero", zero).add("i64", INT64_MIN).add("u64", uint64_t{1} << 62);
  metadata.add("au8", std::vector<uint8_t>{0, 255}).add("ai8", std::vector<int8_t>{-1});
  metadata.add("au16", std::vector<uint16_t>{1, 65535}).add("ai16", std::vector<int16_t>{-2, 2});
  metadata.add("au32", std::vector<uint32_t>{3}).add("ai32", std::vector<int32_t>{-3, 3});
  metadata.add("au64", std::vector<uint64_t>{4}).add("ai64", std::vector<int64_t>{-4, INT64_MAX});
  metadata.add("af32", std::vector<float>{0.5f, -INFINITY}).add("af64", std::vector<double>{0.1});
  metadata.add("abool", std::vector<bool>{true, false}).add("none", std::vector<int32_t>{});
  metadata.add("astring", Strings{"", "x", zero});
  GgufWriter(dir / "m.gguf", metadata, {}).commit();

  const GgufFile file(dir / "m.gguf");
  const GgufMetadata& m = file.metadata();
  EXPECT_EQ(m.values().size(), metadata.count());
  const std::pair<const char*, int64_t> integers[] = {
      {"u8", 255},         {"i8", -128},       {"u16", 65535},     {"i16", -32768},
      {"u32", 4294967295}, {"i32", INT32_MIN}, {"i64", INT64_MIN}, {"u64", int64_t{1} << 62}};
  for (const auto& [key, value] : integers) EXPECT_EQ(m.get<int64_t>(key), value) << key;
  EXPECT_EQ(m.get<double>("f32"), static_cast<double>(-0.1f));
  EXPECT_EQ(m.get<double>("f64"), 0.1);
  EXPECT_EQ(m.get<bool>("bool"), true);
  EXPECT_EQ(m.get<std::string_view>("string"), "a é");
  EXPECT_EQ(m.get<std::string_view>("empty"), "");
  EXPECT_EQ(m.get<std::string_view>("zero"), zero);
  const std::pair<const char*, std::vector<int64_t>> arrays[] = {
      {"au8", {0, 255}}, {"ai8", {-1}},     {"au16", {1, 65535}}, {"ai16", {-2, 2}},        {"au32", {3}},
      {"au64", {4}},     {"ai32", {-3, 3}}, {"none", {}},         {"ai64", {-4, INT64_MAX}}};
  for (const auto& [key, values] : arrays) EXPECT_EQ(m.get<std::vector<int64_t>>(key), values) << key;
  EXPECT_EQ(m.get<std::vector<double>>("af32"), (std::vector<double>{0.5, -INFINITY}));
  EXPECT_EQ(m.get<std::vector<double>>("af64"), (std::vector<double>{0.1}));
  EXPECT_EQ(m.get<Strings>("astring"), (Strings{"", "x", zero}));
  EXPECT_EQ(as_text(m.value("abool")->bytes), std::string("\1\0", 2));
  EXPECT_EQ(m.find<int64_t>("u8"), 255);
  EXPECT_EQ(m.find<int64_t>("absent"), std::nullopt);
  EXPECT_EQ(m.find<Strings>("absent"), std::nullopt);
}

TEST(Gguf, GettersNameFileKeyAndTypes) {
  Bytes b = make_start(0, 5);
  b.str("s").u32(8).str("yarn").str("f").u32(6).put(1.5f).str("big").u32(10).u64(uint64_t{1} << 63);
  b.str("a").u32(9).u32(10).u64(1).u64(uint64_t{1} << 63).str("b").u32(7).put(false);
  const GgufHeader h = parse(b.text);
  const GgufMetadata& m = h.metadata;
  using Strings = std::vector<std::string_view>;
  EXPECT_EQ(error_of([&] { m.get<int64_t>("x.y"); }), "t.gguf: x.y: expected an integer below 2^63, found nothing");
  EXPECT_EQ(error_of([&] { m.get<int64_t>("s"); }),
            "t.gguf: s: expected an integer below 2^63, found \"yarn\" (string)");
  EXPECT_EQ(error_of([&] { m.get<int64_t>("f"); }), "t.gguf: f: expected an integer below 2^63, found 1.5 (f32)");
  EXPECT_EQ(error_of([&] { m.get<int64_t>("b"); }), "t.gguf: b: expected an integer below 2^63, found false (bool)");
  EXPECT_EQ(error_of([&] { m.find<int64_t>("big"); }),
            "t.gguf: big: expected an integer below 2^63, found 9223372036854775808 (u64)");
  EXPECT_EQ(error_of([&] { m.get<double>("big"); }), "t.gguf: big: expected a float, found 9223372036854775808 (u64)");
  EXPECT_EQ(error_of([&] { m.get<bool>("a"); }), "t.gguf: a: expected a bool, found an array of 1 (u64)");
  EXPECT_EQ(error_of([&] { m.get<std::string_view>("b"); }), "t.gguf: b: expected a string, found false (bool)");
  EXPECT_EQ(error_of([&] { m.get<Strings>("s"); }), "t.gguf: s: expected an array of strings, found \"yarn\" (string)");
  EXPECT_EQ(error_of([&] { m.get<Strings>("a"); }),
            "t.gguf: a: expected an array of strings, found an array of 1 (u64)");
  EXPECT_EQ(error_of([&] { m.get<std::vector<int64_t>>("a"); }),
            "t.gguf: a: expected an array of integers below 2^63, found an array of 1 (u64)");
  EXPECT_EQ(error_of([&] { m.get<std::vector<double>>("a"); }),
            "t.gguf: a: expected an array of floats, found an array of 1 (u64)");
}

TEST(Gguf, ExcerptsAreShortAndOnOneLine) {
  const std::string file = make_start(0, 1).str("s").u32(8).str("\n\xff" + std::string(5000, 'x')).text;
  const GgufHeader h = parse(file);
  const std::string text = gguf_excerpt(h.metadata.values()[0]);
  EXPECT_TRUE(text.starts_with("\"\\n\\ufffdxxx")) << text;
  EXPECT_LT(text.size(), 80u);
}

/// The specification's table (10.4): id, elements and bytes of a block.
TEST(Gguf, TypesAreThoseOfTheSpecification) {
  struct Row {
    uint32_t id;
    const char* name;
    int64_t elements, bytes;
  };
  const Row rows[] = {
      {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},     {3, "Q4_1", 32, 20},
      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},     {10, "Q2_K", 256, 84},
      {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},  {14, "Q6_K", 256, 210},
      {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98},
      {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110}, {22, "IQ2_S", 256, 82},
      {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},       {26, "I32", 1, 4},
      {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},  {30, "BF16", 1, 2},
      {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17}};
  for (const Row& row : rows) {
    const auto type = find_ggml_type(row.id);
    ASSERT_TRUE(type) << row.id;
    EXPECT_EQ(static_cast<uint32_t>(*type), row.id);
    EXPECT_EQ(ggml_type_info(*type).name, row.name);
    EXPECT_EQ(ggml_type_info(*type).block_elements, row.elements) << row.name;
    EXPECT_EQ(ggml_type_info(*type).block_bytes, row.bytes) << row.name;
  }
  for (const uint32_t id : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 43u, 0xffffffffu}) EXPECT_FALSE(find_ggml_type(id));
  EXPECT_EQ(ggml_types().size(), std::size(rows) + 4);  // Q8_1 and what came after the specification
}

/// Pseudo-random bytes that depend on the name alone.
std::string data_of(const GgufSpec& spec) {
  Rng rng(std::hash<std::string>{}(spec.name));
  std::string data(spec.bytes(), '\0');
  for (char& c : data) c = static_cast<char>(rng.next());
  return data;
}

void write_gguf(const fs::path& path, const GgufMetadataBuilder& metadata, const std::vector<GgufSpec>& specs) {
  GgufWriter writer(path, metadata, specs);
  for (const GgufSpec& spec : writer.tensors()) writer.write(as_bytes(data_of(spec)));
  writer.commit();
}

void expect_tensor(const GgufFile& file, const GgufSpec& spec) {
  const GgufTensor& t = file.get(spec.name);
  EXPECT_EQ(t.name, spec.name);
  EXPECT_EQ(t.type, spec.type);
  EXPECT_EQ(t.dims, spec.dims);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(t.bytes.data()) % 32, 0u);
  EXPECT_EQ(as_text(t.bytes), data_of(spec)) << spec.name;
}

TEST(Gguf, RoundTripOfEveryTensorType) {
  const TempDir dir;
  std::vector<GgufSpec> specs;
  for (const GgmlTypeInfo& info : ggml_types())
    for (const std::vector<int64_t>& tail : {std::vector<int64_t>{}, {3}, {3, 5}, {3, 5, 2}}) {
      std::vector<int64_t> dims = {info.block_elements * 3};
      dims.insert(dims.end(), tail.begin(), tail.end());
      specs.push_back({fmt::format("{}.{}", info.name, dims.size()), info.type, dims});
    }
  write_gguf(dir / "m.gguf", GgufMetadataBuilder().add("general.architecture", "deepseek2"), specs);
  const GgufFile file(dir / "m.gguf");
  EXPECT_EQ(file.path(), dir / "m.gguf");
  ASSERT_EQ(file.tensors().size(), specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(file.tensors()[i].name, specs[i].name);
    expect_tensor(file, specs[i]);
  }
  const GgufTensor& t = file.get("Q4_K.4");
  EXPECT_EQ(t.cols(), 768);
  EXPECT_EQ(t.rows(), 3);
  EXPECT_EQ(t.matrices(), 10);
  EXPECT_EQ(t.bytes.size(), 144u * 3 * 30);
  EXPECT_EQ(file.get("Q4_K.1").rows(), 1);
  EXPECT_EQ(file.get("Q4_K.2").matrices(), 1);
  EXPECT_EQ(file.find("nothing"), nullptr);
  EXPECT_EQ(error_of([&] { file.get("nothing"); }),
            (dir / "m.gguf").string() + ": expected a tensor \"nothing\", found none");
}

TEST(Gguf, ReadsLongArraysOfStrings) {
  const TempDir dir;
  std::vector<std::string> tokens(160'000);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = std::string(i % 20, 'x') + std::to_string(i);
  GgufWriter(dir / "m.gguf", GgufMetadataBuilder().add("tokens", tokens).add("end", uint32_t{1}), {}).commit();
  const GgufFile file(dir / "m.gguf");
  const auto read = file.metadata().get<std::vector<std::string_view>>("tokens");
  EXPECT_TRUE(std::equal(read.begin(), read.end(), tokens.begin(), tokens.end()));
  EXPECT_EQ(file.metadata().get<int64_t>("end"), 1);
}

TEST(Gguf, WriterChecksItsCaller) {
  const TempDir dir;
  const fs::path path = dir / "m.gguf";
  const GgufMetadataBuilder none;
  const GgufSpec a = {"a", GgmlType::f32, {1}};
  {
    GgufWriter writer(path, none, {a});
    writer.write(as_bytes("123"));
    EXPECT_THROW(writer.commit(), Bug);
    EXPECT_THROW(writer.write(as_bytes("45")), Bug);
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  EXPECT_THROW(GgufWriter(path, none, {a, a}), Bug);
  const GgufSpec bad[] = {{"", GgmlType::f32, {1}},
                          {std::string(64, 'a'), GgmlType::f32, {1}},
                          {"a", GgmlType::f32, {}},
                          {"a", GgmlType::f32, {1, 1, 1, 1, 1}},
                          {"a", GgmlType::f32, {0}},
                          {"a", GgmlType::f32, {1, -1}},
                          {"a", GgmlType::q4_k, {255}},
                          {"a", GgmlType::f32, {INT64_MAX, INT64_MAX}},
                          {"a", static_cast<GgmlType>(4), {1}}};
  for (const GgufSpec& spec : bad) EXPECT_THROW(GgufWriter(path, none, {spec}), Bug) << spec.name;
  for (const std::string& key : {std::string(), std::string(65536, 'k'), std::string("general.alignment")})
    EXPECT_THROW(GgufMetadataBuilder().add(key, uint32_t{32}), Bug);
  EXPECT_THROW(GgufMetadataBuilder().add("k", 1).add("k", 2), Bug);
  EXPECT_NE(error_of([&] { GgufWriter(dir / "no/such/folder", none, {a}); }), "");
}

/// Expects that the file is refused with a message that contains `message`.
void expect_refused(const std::string& file, const std::string& message) {
  const std::string text = error_of([&] { parse(file); });
  EXPECT_NE(text.find(message), std::string::npos) << "expected: " << message << "\n  found: " << text;
  EXPECT_TRUE(text.starts_with("t.gguf: ")) << text;
}

TEST(Gguf, RefusesEveryTruncation) {
  const size_t end = kHandMade.size() - 28;  // of the last tensor's data; the padding behind it may be missing
  EXPECT_EQ(parse(kHandMade.substr(0, end)).tensors.size(), 2u);
  for (size_t n = 0; n < end; ++n) EXPECT_NE(error_of([&] { parse(kHandMade.substr(0, n)); }), "") << n << " bytes";
}

TEST(Gguf, RefusesMalformedStarts) {
  expect_refused("", "magic: expected \"GGUF\", found \"\"");
  expect_refused("PK\x03\x04zzzz", "magic: expected \"GGUF\", found \"PK\\u0003\\u0004\"");
  expect_refused("ggml....", "magic: expected \"GGUF\"");
  expect_refused("FUGG....", "expected a little-endian GGUF file, found a big-endian one");
  expect_refused(make_start(0, 0, 0x03000000).text, "found a big-endian one");
  expect_refused("GGUF\x03", "version: truncated: expected 4 bytes, found 1");
  for (const uint32_t version : {0u, 1u, 4u, 0xffffffffu})
    expect_refused(make_start(0, 0, version).text, fmt::format("version: expected 2 or 3, found {}", version));
  expect_refused(make_start(1, 0).text, "number of tensors: expected at most 0 in 8 bytes, found 1");
  expect_refused(make_start(~uint64_t{0}, 0).text, "number of tensors: expected at most 0");
  expect_refused(make_start(0, 1).text, "number of metadata values: expected at most 0 in 0 bytes, found 1");
  expect_refused(make_start(0, ~uint64_t{0}).data(1000).text, "number of metadata values: expected at most");
}

/// A file of one value: its key and what `rest` adds.
std::string one_value(std::string_view key, const std::function<void(Bytes&)>& rest) {
  Bytes b = make_start(0, 1).str(key);
  rest(b);
  return b.data(0).text + std::string(32, '\0');
}

TEST(Gguf, RefusesMalformedValues) {
  constexpr uint64_t kHuge = ~uint64_t{0};
  const auto refused = [](const std::function<void(Bytes&)>& rest, const char* message) {
    expect_refused(one_value("k", rest), message);
  };
  expect_refused(make_start(0, 1).u64(kHuge).data(32).text,
                 "metadata 0: key: truncated: expected 18446744073709551615");
  expect_refused(one_value("", [](Bytes& b) { b.u32(0); }), "metadata 0: key: expected 1 to 65535 bytes, found 0");
  expect_refused(one_value(std::string(65536, 'k'), [](Bytes& b) { b.u32(0); }), "1 to 65535 bytes, found 65536");
  refused([](Bytes& b) { b.u32(13); }, "\"k\": type: expected a type from 0 to 12, found 13");
  refused([](Bytes& b) { b.u32(0xffffffff); }, "\"k\": type: expected a type from 0 to 12, found 4294967295");
  refused([](Bytes& b) { b.u32(7).put('\2'); }, "\"k\": expected a bool (0 or 1), found 2");
  refused([](Bytes& b) { b.u32(8).u64(kHuge); }, "\"k\": value: truncated: expected 18446744073709551615 bytes");
  refused([](Bytes& b) { b.u32(8).u64(1000); }, "\"k\": value: truncated: expected 1000 bytes");
  refused([](Bytes& b) { b.u32(9).u32(13).u64(0); }, "\"k\": type of the elements: expected a type from 0 to 12");
  refused([](Bytes& b) { b.u32(9).u32(9).u64(0); }, "\"k\": expected an array of plain values");
  for (const uint32_t type : {0u, 4u, 8u, 12u})  // as bytes, 2^61 u64 would be 0
    for (const uint64_t count : {kHuge, uint64_t{1} << 61, uint64_t{1} << 62, uint64_t{1000}})
      refused([&](Bytes& b) { b.u32(9).u32(type).u64(count); }, "\"k\": value: truncated: expected");
  refused([](Bytes& b) { b.u32(9).u32(8).u64(2).str("a").u64(kHuge - 7); }, "\"k\": value: truncated");
  refused([](Bytes& b) { b.u32(9).u32(7).u64(2).put('\1').put('\xff'); }, "\"k\": expected a bool (0 or 1), found 255");
  expect_refused(make_start(0, 2).str("k").u32(0).put('a').str("k").u32(0).put('a').text, "\"k\": duplicate key");
  expect_refused(one_value("a\n\xff", [](Bytes& b) { b.u32(4).u32(7); }),
                 "no control characters, found \"a\\n\\ufffd\"");
}

TEST(Gguf, RefusesBadAlignments) {
  const auto with_alignment = [](uint64_t alignment) {
    return make_start(1, 1).str("general.alignment").u32(10).u64(alignment).tensor("t", {1}, 0, 0).data(4).text;
  };
  EXPECT_EQ(parse(with_alignment(32)).alignment, 32u);
  EXPECT_EQ(parse(with_alignment(8)).tensors.size(), 1u);
  for (const uint64_t alignment : {uint64_t{0}, uint64_t{4}, uint64_t{33}, uint64_t{1} << 31, uint64_t{1} << 62})
    expect_refused(with_alignment(alignment), "general.alignment: expected a power of two from 8 to 2^30, found");
  expect_refused(with_alignment(uint64_t{1} << 63), "general.alignment: expected an integer below 2^63");
  expect_refused(with_alignment(uint64_t{1} << 30), "\"t\": truncated");
  expect_refused(one_value("general.alignment", [](Bytes& b) { b.u32(8).str("32"); }),
                 "general.alignment: expected an integer below 2^63, found \"32\" (string)");
}

TEST(Gguf, HonoursOtherAlignments) {
  Bytes b = make_start(2, 1).str("general.alignment").u32(4).u32(64).tensor("a", {1}, 0, 0).tensor("b", {1}, 0, 64);
  const size_t begin = (b.text.size() + 63) / 64 * 64;
  b.text.resize(begin + 68);
  b.text.replace(begin, 4, "AAAA").replace(begin + 64, 4, "BBBB");
  const GgufHeader h = parse(b.text);
  EXPECT_EQ(as_text(h.tensors[0].bytes), "AAAA");
  EXPECT_EQ(as_text(h.tensors[1].bytes), "BBBB");
}

TEST(Gguf, RefusesMalformedTensors) {
  using Dims = std::vector<uint64_t>;
  constexpr uint64_t kHuge = ~uint64_t{0};
  const auto refused = [](std::string_view name, const Dims& dims, uint32_t type, uint64_t offset,
                          const char* message) {
    expect_refused(make_start(1, 0).tensor(name, dims, type, offset).data(64).text, message);
  };
  refused("", {1}, 0, 0, "tensor 0: name: expected 1 to 64 bytes, found 0");
  refused(std::string(65, 'n'), {1}, 0, 0, "tensor 0: name: expected 1 to 64 bytes, found 65");
  refused("t", {}, 0, 0, "\"t\": expected 1 to 4 dimensions, found 0");
  refused("t", {1, 1, 1, 1, 1}, 0, 0, "\"t\": expected 1 to 4 dimensions, found 5");
  expect_refused(make_start(1, 0).str("t").u32(0xffffffff).data(64).text,
                 "expected 1 to 4 dimensions, found 4294967295");
  refused("t", {0}, 0, 0, "\"t\": dimensions: expected integers from 1 to 2^63 - 1, found 0");
  refused("t", {1, kHuge}, 0, 0, "\"t\": dimensions: expected integers from 1 to 2^63 - 1, found 18446744073709551615");
  refused("t", {1}, 4, 0, "\"t\": type: expected the id of a known type, found 4");
  refused("t", {1}, 139, 0, "\"t\": type: expected the id of a known type, found 139");
  refused("t", {48}, 8, 0, "\"t\": dimensions: expected a multiple of 32 (type Q8_0) first, found 48");
  refused("t", {32}, 12, 0, "\"t\": dimensions: expected a multiple of 256 (type Q4_K) first, found 32");
  refused("t", {uint64_t{1} << 62}, 0, 0, "\"t\": dimensions: the size overflows 64 bits");
  refused("t", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0, "\"t\": dimensions: the size overflows 64 bits");
  refused("t", {1, uint64_t{1} << 32, 1, uint64_t{1} << 31}, 0, 0, "\"t\": dimensions: the size overflows 64 bits");
  refused("t", {1}, 0, 4, "\"t\": offset: expected a multiple of 32, found 4");
  refused("t", {1}, 0, 64, "\"t\": truncated: expected 4 bytes of data at offset 64, found 64 bytes of data");
  refused("t", {1}, 0, kHuge - 31, "\"t\": truncated: expected 4 bytes of data at offset 18446744073709551584");
  refused("t", {17}, 0, 0, "\"t\": truncated: expected 68 bytes of data at offset 0, found 64 bytes of data");
  const auto two = [](const char* name, uint64_t rows, uint64_t a, uint64_t b) {
    return make_start(2, 0).tensor("x", {8, rows}, 0, a).tensor(name, {8, 1}, 0, b).data(96).text;
  };
  EXPECT_EQ(parse(two("y", 1, 0, 64)).tensors.size(), 2u);  // a hole does no harm
  EXPECT_EQ(as_text(parse(two("y", 2, 32, 0)).tensors[0].bytes), std::string(64, '\0'));
  expect_refused(two("x", 1, 0, 32), "\"x\": duplicate tensor");
  expect_refused(two("y", 2, 0, 32), "\"y\": offset: the data overlaps that of \"x\"");
  expect_refused(two("y", 2, 32, 64), "\"y\": offset: the data overlaps that of \"x\"");
  expect_refused(two("y", 1, 0, 0), "offset: the data overlaps that of");
  expect_refused(two("y", 3, 0, 64), "\"y\": offset: the data overlaps that of \"x\"");
}

/// A file in three parts; tensor i is in part i.
struct Parts {
  TempDir dir;
  std::vector<GgufSpec> specs = {{"a", GgmlType::f32, {5}}, {"b", GgmlType::q8_0, {32, 2}}, {"c", GgmlType::f16, {7}}};
  fs::path path(int part) const { return dir / fmt::format("m-{:05}-of-00003.gguf", part); }
  void write(int part, uint16_t no, uint16_t count, int32_t tensors) const {
    GgufMetadataBuilder metadata;
    metadata.add("split.no", no).add("split.count", count).add("split.tensors.count", tensors);
    if (part == 1) metadata.add("general.name", "whole");
    write_gguf(path(part), metadata, {specs[static_cast<size_t>(part - 1)]});
  }
  Parts() {
    for (int i = 1; i <= 3; ++i) write(i, static_cast<uint16_t>(i - 1), 3, 3);
  }
  std::string error() const {
    return error_of([&] { GgufFile file(path(1)); });
  }
};

TEST(Gguf, OpensAllPartsFromAnyOfThem) {
  const Parts parts;
  for (int i = 1; i <= 3; ++i) {
    GgufFile opened(parts.path(i));
    const GgufFile file = std::move(opened);
    EXPECT_EQ(file.path(), parts.path(1));
    EXPECT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.metadata().get<std::string_view>("general.name"), "whole");
    for (const GgufSpec& spec : parts.specs) expect_tensor(file, spec);
    EXPECT_EQ(file.get("b").file, parts.path(2).string());
  }
}

TEST(Gguf, RefusesPartsThatDoNotFit) {
  Parts p;
  const std::string first = p.path(1).string() + ": ", second = p.path(2).string() + ": ";
  p.write(2, 2, 3, 3);
  EXPECT_EQ(p.error(), second + "split.no: expected 1, found 2");
  p.write(2, 1, 4, 3);
  EXPECT_EQ(p.error(), second + "split.count: expected 3, found 4");
  write_gguf(p.path(2), GgufMetadataBuilder(), {p.specs[1]});
  EXPECT_EQ(p.error(), second + "split.no: expected an integer below 2^63, found nothing");
  p.write(2, 1, 3, 3);
  p.write(1, 0, 3, 4);
  EXPECT_EQ(p.error(), first + "split.tensors.count: expected 3, found 4");
  p.write(1, 0, 3, 3);
  EXPECT_EQ(p.error(), "");
  p.specs[1].name = "a";
  p.write(2, 1, 3, 3);
  EXPECT_EQ(p.error(), second + "\"a\": duplicate tensor: " + p.path(1).string() + " has it too");
  fs::remove(p.path(2));
  EXPECT_TRUE(p.error().starts_with(second + "cannot open")) << p.error();
  fs::rename(p.path(3), p.dir / "other.gguf");
  EXPECT_NE(error_of([&] { GgufFile file(p.dir / "other.gguf"); }).find("ends in -00001-of-00003.gguf"),
            std::string::npos);
}

TEST(Gguf, PartNumbersLieInTheirRange) {
  const TempDir dir;
  const auto error = [&](const char* name) {
    write_gguf(dir / name, GgufMetadataBuilder(), {});
    return error_of([&] { GgufFile file(dir / name); });
  };
  for (const char* name : {"m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-00001-of-00000.gguf"})
    EXPECT_NE(error(name).find("expected a name that ends in a part from 00001 to"), std::string::npos) << name;
  for (const char* name : {"m-00001-of-00001.gguf", "m-0001-of-0002.gguf", "m-0000a-of-00002.gguf", "m.gguf", "m",
                           "m-00001-of-00002.ggux", "m-00001_of-00002.gguf", ".gguf"})
    EXPECT_EQ(error(name), "") << name;
  EXPECT_NE(error("-00001-of-00002.gguf"), "");
}

}  // namespace
}  // namespace sluice
