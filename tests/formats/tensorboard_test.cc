#include "formats/tensorboard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <ctime>
#include <map>
#include <vector>

#include "../base/temp_dir.h"

namespace sluice {
namespace {

/// CRC-32C bit by bit, from its definition.
uint32_t slow_crc32c(std::string_view bytes) {
  uint32_t c = ~0u;
  for (const char b : bytes)
    for (int bit = 0; bit < 8; ++bit)
      c = (c >> 1) ^ (((c ^ (static_cast<unsigned char>(b) >> bit)) & 1) ? 0x82f63b78u : 0u);
  return ~c;
}

uint64_t little_endian(std::string_view bytes) {
  uint64_t v = 0;
  for (size_t i = bytes.size(); i-- > 0;) v = v << 8 | static_cast<unsigned char>(bytes[i]);
  return v;
}

/// The payloads of a TFRecord file; checks both sums of each.
std::vector<std::string> read_records(const std::string& file) {
  std::vector<std::string> records;
  const auto check_sum = [](std::string_view bytes, std::string_view sum) {
    const uint32_t rotated = static_cast<uint32_t>(little_endian(sum)) - 0xa282ead8u;
    EXPECT_EQ(rotated >> 17 | rotated << 15, slow_crc32c(bytes));
  };
  for (size_t at = 0; at < file.size();) {
    const std::string_view rest = std::string_view(file).substr(at);
    if (rest.size() < 16) throw Bug("a record is cut off");
    const size_t length = little_endian(rest.substr(0, 8));
    if (rest.size() < 16 + length) throw Bug("a record is cut off");
    check_sum(rest.substr(0, 8), rest.substr(8, 4));
    check_sum(rest.substr(12, length), rest.substr(12 + length, 4));
    records.emplace_back(rest.substr(12, length));
    at += 16 + length;
  }
  return records;
}

/// One protobuf message: field number -> raw values in order (numbers as 8 little-endian bytes or fewer).
std::multimap<uint64_t, std::string> decode(std::string_view m) {
  std::multimap<uint64_t, std::string> fields;
  const auto varint = [&] {
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
      const auto b = static_cast<unsigned char>(m.at(0));
      m.remove_prefix(1);
      v |= static_cast<uint64_t>(b & 0x7f) << shift;
      if (b < 0x80) return v;
    }
  };
  while (!m.empty()) {
    const uint64_t key = varint();
    uint64_t length = 0;
    if ((key & 7) == 0) {
      const uint64_t value = varint();
      fields.emplace(key >> 3, std::string(reinterpret_cast<const char*>(&value), 8));
      continue;
    }
    length = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : varint();
    if (length > m.size()) throw Bug("a field is cut off");
    fields.emplace(key >> 3, m.substr(0, length));
    m.remove_prefix(length);
  }
  return fields;
}

const std::string& one(const std::multimap<uint64_t, std::string>& fields, uint64_t number) {
  if (fields.count(number) != 1) throw Bug("expected one field");
  return fields.find(number)->second;
}

template <class T>
T number(const std::string& bytes) {
  T v{};
  std::memcpy(&v, bytes.data(), sizeof(T));
  return v;
}

TEST(Tensorboard, Crc32cKnownValues) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720 B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
}

TEST(Tensorboard, EventsDecode) {
  const TempDir dir;
  TensorboardWriter writer(dir / "runs/tb", 0);
  const std::vector<std::pair<std::string, float>> a = {{"train/loss", 2.5f}, {"lr", 1e-4f}};
  const std::vector<std::pair<std::string, float>> b = {{std::string(300, 'x'), NAN}};
  writer.add_scalars(1, a);
  writer.add_scalars(int64_t{1} << 40, b);
  EXPECT_TRUE(writer.path().filename().string().starts_with("events.out.tfevents."));
  // Flushed: the file is complete while the writer lives.
  const auto records = read_records(read_file(writer.path()));
  ASSERT_EQ(records.size(), 3u);

  const auto version = decode(records[0]);
  EXPECT_EQ(one(version, 3), "brain.Event:2");
  EXPECT_NEAR(number<double>(one(version, 1)), static_cast<double>(std::time(nullptr)), 10);

  const auto first = decode(records[1]);
  EXPECT_EQ(number<int64_t>(one(first, 2)), 1);
  const auto summary = decode(one(first, 5));
  ASSERT_EQ(summary.count(1), 2u);
  auto value = summary.find(1);
  EXPECT_EQ(one(decode(value->second), 1), "train/loss");
  EXPECT_EQ(number<float>(one(decode(value->second), 2)), 2.5f);
  ++value;
  EXPECT_EQ(one(decode(value->second), 1), "lr");
  EXPECT_EQ(number<float>(one(decode(value->second), 2)), 1e-4f);

  const auto second = decode(records[2]);
  EXPECT_EQ(number<int64_t>(one(second, 2)), int64_t{1} << 40);
  const auto nan = decode(one(decode(one(second, 5)), 1));
  EXPECT_EQ(one(nan, 1), std::string(300, 'x'));
  EXPECT_TRUE(std::isnan(number<float>(one(nan, 2))));
}

TEST(Tensorboard, AResumedRunHasItsOwnFileAndSaysWhereItStarts) {
  const TempDir dir;
  const TensorboardWriter old(dir.path(), 0);
  const TensorboardWriter resumed(dir.path(), 100);
  EXPECT_LT(old.path(), resumed.path());
  EXPECT_EQ(read_records(read_file(old.path())).size(), 1u);
  const auto records = read_records(read_file(resumed.path()));
  ASSERT_EQ(records.size(), 2u);
  const auto start = decode(records[1]);
  EXPECT_EQ(number<int64_t>(one(start, 2)), 100);
  EXPECT_EQ(number<int64_t>(one(decode(one(start, 7)), 1)), 1);  // SessionLog START
}

TEST(Tensorboard, RefusesAFolderThatIsAFile) {
  const TempDir dir;
  write_file(dir / "x", "");
  EXPECT_NE(error_of([&] { TensorboardWriter(dir / "x", 0); }).find("/x"), std::string::npos);
}

}  // namespace
}  // namespace sluice
