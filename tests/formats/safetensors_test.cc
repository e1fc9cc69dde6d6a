#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "../base/temp_dir.h"
#include "base/rng.h"

namespace sluice {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

/// A file with this header and `data` zero bytes.
std::string make_file(const std::string& header, size_t data) {
  std::string file(8, '\0');
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + std::string(data, '\0');
}

SafetensorsHeader parse(const std::string& file) { return parse_safetensors(as_bytes(file), "t.safetensors"); }

TEST(Safetensors, ReadsAHandMadeFile) {
  std::string file = make_file(
      R"({"__metadata__":{"format":"pt","a":"é"},"b":{"data_offsets":[8,12],"shape":[],"dtype":"F32"},)"
      R"("a":{"dtype":"BF16","shape":[2,1,2],"data_offsets":[0,8]},"empty":{"dtype":"I64","shape":[0,3],"data_offsets":[8,8]}}  )",
      12);
  const float one_and_half = 1.5f;
  std::memcpy(file.data() + file.size() - 4, &one_and_half, 4);
  file[file.size() - 12 + 1] = 0x40;  // bf16 0x4000 = 2
  const SafetensorsHeader h = parse(file);
  EXPECT_EQ(h.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"a", "é"}}));
  ASSERT_EQ(h.entries.size(), 3u);
  EXPECT_EQ(h.entries[0].name, "a");
  EXPECT_EQ(h.entries[0].dtype, StDType::bf16);
  EXPECT_EQ(h.entries[0].shape, (std::vector<int64_t>{2, 1, 2}));
  EXPECT_EQ(h.entries[0].read_f32(), (std::vector<float>{2, 0, 0, 0}));
  EXPECT_EQ(h.entries[1].name, "empty");
  EXPECT_EQ(h.entries[1].size(), 0);
  EXPECT_EQ(h.entries[2].name, "b");
  EXPECT_TRUE(h.entries[2].shape.empty());
  EXPECT_EQ(h.entries[2].size(), 1);
  EXPECT_EQ(h.entries[2].read_f32(), (std::vector<float>{1.5f}));
}

TEST(Safetensors, ReadsAnEmptyFile) {
  EXPECT_TRUE(parse(make_file("{}", 0)).entries.empty());
  EXPECT_TRUE(parse(make_file(R"({"__metadata__":{}}   )", 0)).entries.empty());
}

struct Malformed {
  const char* header;
  size_t data;
  const char* message;  // part of it
};

TEST(Safetensors, RefusesMalformedHeaders) {
  const Malformed cases[] = {
      {"", 0, "starts with '{'"},
      {" {}", 0, "starts with '{'"},
      {"[]", 0, "starts with '{'"},
      {"\xef\xbb\xbf{}", 0, "starts with '{'"},
      {"{", 0, "malformed JSON"},
      {"{}x", 0, "malformed JSON"},
      {"{}{}", 0, "malformed JSON"},
      {"{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "malformed JSON"},
      {R"({"a":1})", 0, "expected an object, found 1"},
      {R"({"a":null})", 0, "expected an object, found null"},
      {R"({"a":[]})", 0, "expected an object, found an array"},
      {R"({"a":{}})", 0, "expected a field \"dtype\""},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "expected a field \"data_offsets\""},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "expected a field \"shape\""},
      {R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype \"F31\""},
      {R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype"},
      {R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", 4, "\"dtype\": expected a string, found 1"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "\"shape\": expected an array, found 1"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "found -1"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "found 1.0"},
      {R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", 4, "found \"1\""},
      {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "found an array"},
      {R"({"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}})", 4, "found true"},
      {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", 4, "found 9223372036854775808"},
      {R"({"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}})", 4, "malformed JSON"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4, "overflows"},
      {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}})", 0, "overflows"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "two integers >= 0, found 1 of them"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "two integers >= 0, found 8"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4, "found -4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "begin <= end <= 4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 4, "begin <= end <= 4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551615,3]}})", 4, "begin <= end <= 4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,3]}})", 4, "expected 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":0}})", 4, "\"x\": unknown field"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "\"dtype\": duplicate key"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "duplicate key \"a\""},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})",
       9, "\"b\": \"data_offsets\": hole"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}})",
       7, "\"b\": \"data_offsets\": overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "hole"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "expected 4 bytes of data (header), found 5"},
      {"{}", 1, "expected 0 bytes of data"},
      {R"({"__metadata__":{"a":1}})", 0, "\"__metadata__\": \"a\": expected a string, found 1"},
      {R"({"__metadata__":{"a":"x","a":"y"}})", 0, "duplicate key"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "duplicate key"},
      {R"({"__metadata__":[]})", 0, "expected an object"},
  };
  for (const Malformed& c : cases) {
    const std::string text = error_of([&] { parse(make_file(c.header, c.data)); });
    EXPECT_NE(text.find(c.message), std::string::npos) << c.header << "\n  gives: " << text;
    EXPECT_TRUE(text.starts_with("t.safetensors: ")) << text;
  }
}

TEST(Safetensors, RefusesAZeroByteInTheHeader) {
  EXPECT_NE(error_of([] { parse(make_file(std::string("{}\0garbage", 10), 0)); }).find("zero byte"), std::string::npos);
}

TEST(Safetensors, RefusesDeepNestingWithoutRecursion) {
  const std::string deep = "{\"a\":" + std::string(5'000'000, '[');
  EXPECT_NE(error_of([&] { parse(make_file(deep, 0)); }).find("expected an object"), std::string::npos);
}

TEST(Safetensors, RefusesBadLengths) {
  EXPECT_NE(error_of([] { parse(""); }).find("expected 8 bytes, found 0"), std::string::npos);
  EXPECT_NE(error_of([] { parse("1234567"); }).find("expected 8 bytes, found 7"), std::string::npos);
  std::string file = make_file("{}", 0);
  file[0] = 3;
  EXPECT_NE(error_of([&] { parse(file); }).find("truncated"), std::string::npos);
  file.replace(0, 8, std::string("\x01\xe1\xf5\x05\0\0\0\0", 8));  // 100,000,001
  EXPECT_NE(error_of([&] { parse(file); }).find("expected at most 100000000, found 100000001"), std::string::npos);
  file.replace(0, 8, std::string(8, '\xff'));
  EXPECT_NE(error_of([&] { parse(file); }).find("found 18446744073709551615"), std::string::npos);
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string file = make_file(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 12);
  EXPECT_EQ(parse(file).entries.size(), 1u);
  for (size_t n = 0; n < file.size(); ++n) EXPECT_NE(error_of([&] { parse(file.substr(0, n)); }), "") << n << " bytes";
}

TEST(Safetensors, ConvertsEveryNumericTypeAtAnyAlignment) {
  // Data begins at byte 8 + header; one byte of U8 first makes everything behind it odd.
  const std::string header =
      R"({"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
      R"("h":{"dtype":"F16","shape":[2],"data_offsets":[5,9]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[9,11]},)"
      R"("d":{"dtype":"F64","shape":[1],"data_offsets":[11,19]},"q":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[19,22]},)"
      R"("e":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[22,23]}})";
  std::string file = make_file(header, 23);
  char* data = file.data() + file.size() - 23;
  const float f = -0.1f;
  const double d = 0.1;
  std::memcpy(data + 1, &f, 4);
  std::memcpy(data + 5, "\x01\x00\x00\xfc", 4);  // 2^-24, -inf
  std::memcpy(data + 9, "\x80\x3f", 2);          // 1
  std::memcpy(data + 11, &d, 8);
  std::memcpy(data + 19, "\x01\xfe\x7f", 3);  // 2^-9, -448, NaN
  const SafetensorsHeader h = parse(file);
  ASSERT_EQ(h.entries.size(), 7u);
  EXPECT_EQ(h.entries[1].read_f32()[0], f);
  EXPECT_EQ(h.entries[2].read_f32(), (std::vector<float>{0x1p-24f, -INFINITY}));
  EXPECT_EQ(h.entries[3].read_f32()[0], 1);
  EXPECT_EQ(h.entries[4].read_f32()[0], 0.1f);
  EXPECT_EQ(h.entries[5].read_f32()[0], 0x1p-9f);
  EXPECT_EQ(h.entries[5].read_f32()[1], -448);
  EXPECT_TRUE(std::isnan(h.entries[5].read_f32()[2]));
  float one = 0;
  h.entries[5].read_f32(1, {&one, 1});
  EXPECT_EQ(one, -448);
  EXPECT_NE(error_of([&] { (void)h.entries[6].read_f32(); }).find("\"e\": dtype F8_E5M2"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)h.entries[6].tensor(); }).find("\"e\": dtype F8_E5M2"), std::string::npos);
  EXPECT_THROW(h.entries[5].read_f32(3, {&one, 1}), Bug);
}

TEST(Safetensors, DTypesMapBothWays) {
  size_t mapped = 0;
  for (size_t i = 0; i < kNumStDTypes; ++i) {
    const auto dtype = static_cast<StDType>(i);
    EXPECT_EQ(parse_st_dtype(st_dtype_name(dtype)), dtype);
    if (const auto base = to_dtype(dtype)) {
      EXPECT_EQ(from_dtype(*base), dtype);
      EXPECT_EQ(dtype_size(*base), st_dtype_size(dtype));
      ++mapped;
    }
  }
  EXPECT_EQ(mapped, 8u);
  EXPECT_FALSE(parse_st_dtype("F4"));
}

TEST(Safetensors, ReadsEveryGoldenFile) {
  size_t files = 0, tensors = 0;
  for (const auto& item : fs::recursive_directory_iterator(fs::path(SLUICE_SOURCE_DIR) / "tests/golden/hf")) {
    if (item.path().extension() != ".safetensors") continue;
    ++files;
    const SafetensorsFile file(item.path());
    tensors += file.entries().size();
    for (const SafetensorsEntry& e : file.entries()) {
      EXPECT_EQ(file.find(e.name), &e);
      EXPECT_EQ(e.tensor().bytes(), e.bytes.size()) << e.name;
    }
  }
  EXPECT_GE(files, 15u);
  EXPECT_GE(tensors, 500u);
}

TEST(Safetensors, ReadsShardsThroughTheIndex) {
  const SafetensorsFolder folder(fs::path(SLUICE_SOURCE_DIR) / "tests/golden/hf/fp8");
  const auto& w = folder.get("model.layers.0.self_attn.kv_a_proj_with_mqa.weight");
  const auto& s = folder.get("model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv");
  EXPECT_EQ(w.dtype, StDType::f8_e4m3);
  EXPECT_EQ(w.shape, (std::vector<int64_t>{140, 192}));
  EXPECT_EQ(s.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(folder.find("model.layers.0.nothing"), nullptr);
  EXPECT_NE(error_of([&] { folder.get("nothing"); }).find("expected a tensor \"nothing\""), std::string::npos);
  for (size_t i = 1; i < folder.entries().size(); ++i)
    EXPECT_LT(folder.entries()[i - 1]->name, folder.entries()[i]->name);
}

std::string tiny_file(const std::string& name) {
  return make_file("{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
}

TEST(Safetensors, FolderRefusesBadIndexes) {
  const TempDir dir;
  const auto open = [&] { return error_of([&] { SafetensorsFolder folder(dir.path()); }); };
  const auto with_index = [&](const std::string& text) {
    write_file(dir / "model.safetensors.index.json", text);
    return open();
  };
  EXPECT_NE(open().find("found neither"), std::string::npos);
  write_file(dir / "a.safetensors", tiny_file("x"));
  EXPECT_EQ(with_index(R"({"weight_map":{"x":"a.safetensors"}})"), "");
  EXPECT_NE(with_index("{").find("malformed JSON"), std::string::npos);
  EXPECT_NE(with_index("[]").find("expected a JSON object"), std::string::npos);
  EXPECT_NE(with_index("{}").find("weight_map: expected an object, found nothing"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map":[]})").find("expected an object"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map":{"x":1}})").find("weight_map: \"x\": expected a string"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map":{"x":"a.safetensors","x":"a.safetensors"}})").find("duplicate key"),
            std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map":{"x":"b.safetensors"}})").find("b.safetensors"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map":{"y":"a.safetensors"}})").find("expected the tensor \"y\""), std::string::npos);
  for (const char* name : {"../a.safetensors", "..", ".", "", "/etc/passwd", "sub/a.safetensors", "sub\\\\a"})
    EXPECT_NE(
        with_index(fmt::format(R"({{"weight_map":{{"x":"{}"}}}})", name)).find("the name of a file in the folder"),
        std::string::npos)
        << name;
  EXPECT_NE(with_index("{\"weight_map\":" + std::string(1000, '[') + std::string(1000, ']') + "}").find("nested"),
            std::string::npos);
}

TEST(Safetensors, WriterIsByteExact) {
  const TempDir dir;
  const fs::path path = dir / "model.safetensors";
  SafetensorsWriter writer(path, {{"b\"\n", StDType::u8, {3}}, {"a", StDType::f32, {1, 2}}, {"s", StDType::bf16, {}}});
  // Larger elements first, so that all data is aligned.
  ASSERT_EQ(writer.tensors()[0].name, "a");
  ASSERT_EQ(writer.tensors()[1].name, "s");
  writer.write(as_bytes("ABCD"));
  EXPECT_EQ(writer.written(), 4u);
  writer.write(as_bytes("EFGHIJ"));
  EXPECT_FALSE(fs::exists(path));
  writer.write(as_bytes("xyz"));
  const FileSum sum = writer.commit();

  std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
      R"("s":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"b\"\n":{"dtype":"U8","shape":[3],"data_offsets":[10,13]}})";
  header.resize(248, ' ');
  const std::string expected = std::string("\xf8\0\0\0\0\0\0\0", 8) + header + "ABCDEFGHIJxyz";
  EXPECT_EQ(read_file(path), expected);
  EXPECT_EQ(sum.name, "model.safetensors");
  EXPECT_EQ(sum.size, expected.size());
  EXPECT_EQ(sum.crc32, sum_file(dir.path(), "model.safetensors").crc32);
  EXPECT_EQ(SafetensorsFile(path).entries().size(), 3u);
  EXPECT_EQ(SafetensorsFile(path).metadata().at("format"), "pt");
}

TEST(Safetensors, WriterChecksItsCaller) {
  const TempDir dir;
  const fs::path path = dir / "m";
  {
    SafetensorsWriter writer(path, {{"a", StDType::f32, {1}}});
    EXPECT_THROW(writer.write(as_bytes("12345")), Bug);
    EXPECT_THROW(writer.commit(), Bug);
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  const SafetensorsSpec a = {"a", StDType::f32, {1}};
  EXPECT_THROW(SafetensorsWriter(path, {a, a}), Bug);
  EXPECT_THROW(SafetensorsWriter(path, {{"__metadata__", StDType::f32, {1}}}), Bug);
  EXPECT_THROW(SafetensorsWriter(path, {{"a", StDType::f32, {-1}}}), Bug);
  EXPECT_THROW(SafetensorsWriter(path, {{"a", StDType::f32, {INT64_MAX, INT64_MAX}}}), Bug);
  EXPECT_NE(error_of([&] { SafetensorsWriter(dir / "no/such/folder", {a}); }), "");
}

/// Pseudo-random bytes that depend on the name alone.
std::string data_of(const SafetensorsSpec& spec) {
  Rng rng(std::hash<std::string>{}(spec.name));
  std::string data(spec.bytes(), '\0');
  for (char& c : data) c = static_cast<char>(rng.next());
  return data;
}

TEST(Safetensors, FolderRoundTrip) {
  std::vector<SafetensorsSpec> specs;
  for (int i = 0; i < 20; ++i)
    specs.push_back({fmt::format("t{}", i), static_cast<StDType>(i % static_cast<int>(kNumStDTypes)), {i % 3 + 1, 7}});
  specs.push_back({"big", StDType::u8, {5000}});
  specs.push_back({"none", StDType::f32, {0, 4}});
  const auto source = [](const SafetensorsSpec& spec, SafetensorsWriter& w) {
    const std::string data = data_of(spec);
    w.write(as_bytes(std::string_view(data).substr(0, data.size() / 3)));
    w.write(as_bytes(std::string_view(data).substr(data.size() / 3)));
  };
  for (const uint64_t limit : {uint64_t{1}, uint64_t{300}, uint64_t{1000}, uint64_t{1} << 40}) {
    const TempDir dir;
    const auto sums = write_safetensors_folder(dir.path(), specs, limit, source);
    for (const FileSum& sum : sums) EXPECT_EQ(sum_file(dir.path(), sum.name).crc32, sum.crc32) << sum.name;
    EXPECT_EQ(sums.size(), std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()));
    EXPECT_EQ(fs::exists(dir / "model.safetensors"), limit > 10000);
    const SafetensorsFolder folder(dir.path());
    EXPECT_EQ(folder.entries().size(), specs.size());
    for (const SafetensorsSpec& spec : specs) {
      const SafetensorsEntry& e = folder.get(spec.name);
      EXPECT_EQ(e.dtype, spec.dtype);
      EXPECT_EQ(e.shape, spec.shape);
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(e.bytes.data()), e.bytes.size()), data_of(spec));
      if (to_dtype(e.dtype)) {
        EXPECT_EQ(e.tensor().bytes(), e.bytes.size());  // it is aligned
      }
    }
    if (limit == 300) {
      EXPECT_NE(read_file(dir / "model.safetensors.index.json").find("\"total_size\":"), std::string::npos);
      EXPECT_TRUE(fs::exists(dir / fmt::format("model-00001-of-{:05}.safetensors", sums.size() - 1)));
    }
  }
}

TEST(Safetensors, ShardsAreFilledToTheLimit) {
  const TempDir dir;
  std::vector<SafetensorsSpec> specs;
  for (int i = 0; i < 5; ++i) specs.push_back({fmt::format("t{}", i), StDType::u8, {100}});
  write_safetensors_folder(dir.path(), specs, 200,
                           [](const auto& spec, SafetensorsWriter& w) { w.write(as_bytes(data_of(spec))); });
  for (const auto& [name, tensors] : {std::pair{"1", 2u}, {"2", 2u}, {"3", 1u}})
    EXPECT_EQ(SafetensorsFile(dir / fmt::format("model-0000{}-of-00003.safetensors", name)).entries().size(), tensors);
  EXPECT_EQ(read_file(dir / "model.safetensors.index.json"),
            R"({"metadata":{"total_size":500},"weight_map":{"t0":"model-00001-of-00003.safetensors",)"
            R"("t1":"model-00001-of-00003.safetensors","t2":"model-00002-of-00003.safetensors",)"
            R"("t3":"model-00002-of-00003.safetensors","t4":"model-00003-of-00003.safetensors"}})"
            "\n");
}

TEST(Safetensors, FolderWriterChecksItsSource) {
  const TempDir dir;
  EXPECT_THROW(write_safetensors_folder(dir.path(), {{"a", StDType::u8, {4}}, {"b", StDType::u8, {4}}}, 100,
                                        [](const auto&, SafetensorsWriter& w) { w.write(as_bytes("12345")); }),
               Bug);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

}  // namespace
}  // namespace sluice
