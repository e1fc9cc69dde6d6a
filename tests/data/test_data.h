// What the tests of the data pipeline share: a scratch folder, compressed files, a small tokenizer, token sets.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/token_set.h"
#include "tokenizer/bpe_train.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// A folder that is removed with everything in it.
class Scratch {
 public:
  Scratch() {
    static int count = 0;
    path_ = fs::temp_directory_path() / fmt::format("sluice-data-test-{}-{}", getpid(), count++);
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }
  fs::path write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << bytes;
    return path_ / name;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The message of the Error that `f` throws; "" if none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in '" << text << "'";
}

inline std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 1000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

/// Some hundred kilobytes of varied words, lines and paragraphs.
inline std::string sample_text(size_t bytes, unsigned seed = 1) {
  const std::vector<std::string> words{"the",  "river", "Café",   "runs",  "12345", "to",       "sea,", "and",
                                       "李白", "said:", "\"no\"", "maybe", "x",     "winters.", "an",   "unexpected"};
  std::string out;
  while (out.size() < bytes) {
    seed = seed * 1664525 + 1013904223;
    out += words[seed >> 28];
    out += (seed >> 20 & 31) == 0 ? "\n\n" : (seed >> 20 & 7) == 0 ? "\n" : " ";
  }
  return out;
}

inline const Tokenizer& test_tokenizer() {
  static const Tokenizer tokenizer = [] {
    BpeTrainer trainer;
    trainer.add_text(sample_text(20000));
    return Tokenizer(trainer.train(400), trained_tokenizer_config());
  }();
  return tokenizer;
}

/// Everything that read() gives of tokens [begin, end).
struct Contents {
  std::vector<int32_t> ids, first;
  std::vector<uint8_t> loss;
  bool operator==(const Contents&) const = default;
};

inline Contents contents(const TokenSet& set, int64_t begin, int64_t end) {
  const auto n = static_cast<size_t>(end - begin);
  Contents c{std::vector<int32_t>(n), std::vector<int32_t>(n), std::vector<uint8_t>(n)};
  set.read(begin, {c.ids, c.first, c.loss});
  return c;
}

inline Contents contents(const TokenSet& set) { return contents(set, 0, set.tokens()); }

/// A set of the ids 0, 1, 2, ...
inline std::shared_ptr<const TokenSet> counting_set(int64_t tokens) {
  TokenBuffer buffer;
  for (int64_t i = 0; i < tokens; ++i) buffer.tokens.push_back(static_cast<int32_t>(i));
  buffer.documents = {0};
  return std::make_shared<const TokenSet>(std::move(buffer),
                                          TokenSetInfo{.vocab = tokens, .tokenizer = 0, .text_bytes = 0}, "counting");
}

}  // namespace sluice
