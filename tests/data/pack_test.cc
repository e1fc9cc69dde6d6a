#include "data/pack.h"

#include <algorithm>
#include <cstring>

#include "data/sampler.h"
#include "data/shard.h"
#include "formats/checksums.h"
#include "test_data.h"

namespace sluice {
namespace {

std::vector<int32_t> encode(std::string_view text, bool special = false) {
  std::vector<int32_t> ids;
  test_tokenizer().encode(text, special, ids);
  return ids;
}

TokenSet pack(const std::vector<fs::path>& files, const PackOptions& options = {}, PackSummary* summary = nullptr) {
  return pack_to_memory(files, test_tokenizer(), options, summary);
}

TEST(Pack, DocumentsWithBosAndEos) {
  const Scratch scratch;
  const auto a = scratch.write("a.txt", "the river"), b = scratch.write("b.txt", "<｜User｜>"),
             c = scratch.write("c.txt", "");
  const TokenSet set = pack({a, c, b});
  std::vector<int32_t> expected;
  ASSERT_TRUE(test_tokenizer().add_bos());
  for (const char* text : {"the river", "<｜User｜>"}) {  // text cannot forge special tokens
    expected.push_back(test_tokenizer().bos_id());
    for (const int32_t id : encode(text)) expected.push_back(id);
    expected.push_back(test_tokenizer().eos_id());
  }
  const Contents all = contents(set);
  EXPECT_EQ(all.ids, expected);
  EXPECT_EQ(std::count(all.loss.begin(), all.loss.end(), 1), set.tokens());
  EXPECT_EQ(std::count(all.first.begin(), all.first.end(), 0), set.tokens());
  EXPECT_EQ(set.documents(), 2);
  EXPECT_EQ(set.target_tokens(), set.tokens());
  EXPECT_EQ(set.info().text_bytes, 9 + 12);
  expect_contains(error_of([&] { pack({c}); }), "c.txt: expected text, found none");
}

TEST(Pack, ThreadsChangeNothing) {
  const Scratch scratch;
  std::vector<fs::path> files;
  for (unsigned i = 0; i < 6; ++i) {
    files.push_back(scratch.write(fmt::format("{}.txt", i), sample_text(i % 2 ? 300000 : 20000, i)));
  }
  const TokenSet one = pack(files, {.fim_rate = 0.5, .seed = 3, .threads = 1, .split_at = "", .progress = {}});
  const TokenSet three = pack(files, {.fim_rate = 0.5, .seed = 3, .threads = 3, .split_at = "", .progress = {}});
  EXPECT_EQ(contents(one), contents(three));
  EXPECT_EQ(one.fingerprint(), three.fingerprint());
  const TokenSet other = pack(files, {.fim_rate = 0.5, .seed = 4, .threads = 1, .split_at = "", .progress = {}});
  EXPECT_NE(one.fingerprint(), other.fingerprint());
}

TEST(Pack, LongDocumentIsTokenisedAsOne) {
  const Scratch scratch;
  const std::string text = sample_text(900000);
  const TokenSet set = pack({scratch.write("long.txt.gz", gzip(text))}, {.threads = 2, .split_at = {}, .progress = {}});
  const Contents all = contents(set, 1, set.tokens() - 1);
  EXPECT_EQ(all.ids, encode(text));
  EXPECT_EQ(set.documents(), 1);
}

TEST(Pack, FillInTheMiddle) {
  const Scratch scratch;
  std::string lines;
  std::vector<std::string> documents;
  for (unsigned i = 0; i < 400; ++i) {
    documents.push_back(sample_text(1 + i % 60, i));
    std::replace(documents.back().begin(), documents.back().end(), '\n', ' ');
    lines += documents.back() + "\n\n";
  }
  PackSummary summary;
  const TokenSet set =
      pack({scratch.write("a.txt", lines)}, {.fim_rate = 0.25, .seed = 9, .split_at = "", .progress = {}}, &summary);
  const auto begin = *test_tokenizer().id_of("<｜fim▁begin｜>"), hole = *test_tokenizer().id_of("<｜fim▁hole｜>"),
             end = *test_tokenizer().id_of("<｜fim▁end｜>");
  std::vector<int32_t> ids = contents(set).ids;
  int64_t fim = 0;
  for (const std::string& document : documents) {
    const auto eos = std::find(ids.begin(), ids.end(), test_tokenizer().eos_id());
    ASSERT_EQ(ids.front(), test_tokenizer().bos_id());
    std::vector<int32_t> body(ids.begin() + 1, eos);
    ids.erase(ids.begin(), eos + 1);
    const auto decode = [](auto from, auto to) {
      return test_tokenizer().decode(std::vector<int32_t>(from, to), false);
    };
    if (body.front() != begin) {
      EXPECT_EQ(decode(body.begin(), body.end()), document + "\n");
      continue;
    }
    ++fim;
    const auto h = std::find(body.begin(), body.end(), hole), e = std::find(body.begin(), body.end(), end);
    ASSERT_TRUE(h < e && e != body.end());
    const std::string prefix = decode(body.begin() + 1, h), suffix = decode(h + 1, e),
                      middle = decode(e + 1, body.end());
    EXPECT_EQ(prefix + middle + suffix, document + "\n");
    for (const std::string& part : {middle, suffix}) {
      EXPECT_TRUE(part.empty() || (static_cast<unsigned char>(part[0]) & 0xc0) != 0x80) << "a character is cut";
    }
  }
  EXPECT_EQ(fim, summary.fim_documents);
  EXPECT_NEAR(static_cast<double>(fim), 100, 30);
  const auto file = scratch.write("b.txt", "text");
  expect_contains(error_of([&] { pack({file}, {.fim_rate = 1.5, .split_at = {}, .progress = {}}); }), "FIM rate");
}

constexpr const char* kChats =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"the river\"},{\"role\":\"assistant\",\"content\":\"runs\"}]}\n"
    "{\"messages\":[{\"role\":\"system\",\"content\":\"sea\"},{\"role\":\"user\",\"content\":\"and\"},"
    "{\"role\":\"assistant\",\"content\":\"maybe no\"},{\"role\":\"user\",\"content\":\"x\"},"
    "{\"role\":\"assistant\",\"content\":\"winters\"}]}\n";

TEST(Pack, ChatsAreIsolatedAndLearnTheAssistant) {
  const Scratch scratch;
  const TokenSet set = pack({scratch.write("c.jsonl", kChats), scratch.write("t.txt", "the sea")});
  const std::string first = "<｜begin▁of▁sentence｜><｜User｜>the river<｜Assistant｜>runs<｜end▁of▁sentence｜>";
  const Contents all = contents(set);
  const auto one = encode(first, true);
  const auto n = static_cast<int32_t>(one.size());
  EXPECT_TRUE(std::equal(one.begin(), one.end(), all.ids.begin()));
  EXPECT_EQ(set.isolated_documents(), 2);
  EXPECT_EQ(set.documents(), 3);
  const int32_t boundary = all.first.back();  // the text after the chats does not see them
  for (int32_t t = 0; t < set.tokens(); ++t) {
    EXPECT_EQ(all.first[static_cast<size_t>(t)], t < n ? 0 : t < boundary ? n : boundary);
  }
  std::string learnt;
  for (size_t t = 0; t < all.ids.size(); ++t) {
    if (all.loss[t]) learnt += test_tokenizer().decode(std::span(all.ids).subspan(t, 1), false);
  }
  EXPECT_EQ(learnt,
            "runs<｜end▁of▁sentence｜>maybe no<｜end▁of▁sentence｜>winters<｜end▁of▁sentence｜>"
            "<｜begin▁of▁sentence｜>the sea<｜end▁of▁sentence｜>");
  EXPECT_EQ(set.target_tokens(), std::count(all.loss.begin(), all.loss.end(), 1));
}

struct Packed {
  Scratch scratch;
  fs::path folder;
  PackFiles files;
  FolderSummary summary;

  explicit Packed(int64_t shard_tokens = 1000) : folder(scratch / "out/packed") {
    std::string chats;
    for (int i = 0; i < 60; ++i) chats += kChats;
    files.train = {scratch.write("a.txt", sample_text(6000)), scratch.write("c.jsonl", chats),
                   scratch.write("b.txt", sample_text(9000, 5))};
    files.eval = {scratch.write("e.txt", "the river runs")};
    summary = pack_to_folder(files, test_tokenizer(), options(shard_tokens), folder);
  }
  static PackOptions options(int64_t shard_tokens) {
    return {.fim_rate = 0.1, .seed = 1, .threads = 2, .split_at = "", .shard_tokens = shard_tokens, .progress = {}};
  }
  fs::path shard(int i) const { return folder / shard_name("train", i); }
};

TEST(Pack, FolderHoldsWhatMemoryHolds) {
  const Packed packed;
  const TokenSet shards = TokenSet::open(packed.folder, "train"), memory = pack(packed.files.train, Packed::options(0));
  EXPECT_GT(shards.shards(), 3);
  EXPECT_EQ(shards.token_bytes(), 2);
  EXPECT_EQ(contents(shards), contents(memory));
  EXPECT_EQ(shards.documents(), memory.documents());
  EXPECT_EQ(shards.isolated_documents(), 120);
  EXPECT_EQ(shards.target_tokens(), memory.target_tokens());
  EXPECT_EQ(shards.info().text_bytes, memory.info().text_bytes);
  EXPECT_EQ(shards.info().tokenizer, tokenizer_fingerprint(test_tokenizer()));
  EXPECT_EQ(shards.tokens(), packed.summary.train.tokens);
  for (int64_t begin = 0; begin + 97 <= shards.tokens(); begin += 31) {
    ASSERT_EQ(contents(shards, begin, begin + 97), contents(memory, begin, begin + 97)) << begin;
  }
  shards.verify();
  EXPECT_TRUE(TokenSet::exists(packed.folder, "eval"));
  EXPECT_EQ(TokenSet::open(packed.folder, "eval").documents(), 1);
  EXPECT_FALSE(fs::exists(packed.folder.string() + ".partial"));
  // Reproducible, and the same as one shard; the sampler sees no difference.
  const Packed again, big(1 << 20);
  for (int i = 0; i < shards.shards(); ++i) EXPECT_EQ(read_file(packed.shard(i)), read_file(again.shard(i)));
  EXPECT_EQ(contents(TokenSet::open(big.folder, "train")), contents(memory));
}

TEST(Pack, FolderErrors) {
  const Packed packed;
  const auto repack = [&](const PackFiles& files, const fs::path& out) {
    return error_of([&] { pack_to_folder(files, test_tokenizer(), Packed::options(100), out); });
  };
  expect_contains(repack(packed.files, packed.folder), "expected a new or empty folder");
  expect_contains(repack({packed.files.train, {packed.files.train[1]}}, packed.scratch / "x"), "found it in both");
  // What a killed run left is replaced; other files are not touched.
  packed.scratch.write("y.partial/train-00000.tokens", "half");
  packed.scratch.write("y.partial/train-00001.tokens.tmp", "half");
  EXPECT_EQ(repack(packed.files, packed.scratch / "y/"), "");
  EXPECT_GT(TokenSet::open(packed.scratch / "y", "train").tokens(), 100);
  packed.scratch.write("z.partial/mine.txt", "keep");
  expect_contains(repack(packed.files, packed.scratch / "z"), "z.partial");
  EXPECT_TRUE(fs::exists(packed.scratch / "z.partial/mine.txt"));
  expect_contains(error_of([&] { TokenSet::open(packed.scratch / "none", "train"); }), "train-00000.tokens");
}

TEST(Shards, EveryTruncationAndFlippedByteIsFound) {
  const Packed packed(400);
  const std::string good = read_file(packed.shard(1)), name = packed.shard(1).string();
  const auto check_bad = [&](const std::string& bytes, const std::string& what) {
    packed.scratch.write("out/packed/train-00001.tokens", bytes);
    const std::string error = error_of([&] { TokenSet::open(packed.folder, "train").verify(); });
    EXPECT_NE(error, "") << what;
    EXPECT_EQ(error.rfind(name, 0), 0u) << what << ": " << error;
  };
  for (size_t keep = 0; keep < good.size(); keep += keep < 100 ? 1 : 37) {
    check_bad(good.substr(0, keep), fmt::format("{} bytes kept", keep));
  }
  check_bad(good + '\0', "a byte more");
  for (size_t i = 0; i < good.size(); i += i < 100 ? 1 : 13) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x41);
    check_bad(bad, fmt::format("byte {} changed", i));
  }
  packed.scratch.write("out/packed/train-00001.tokens", good);
  EXPECT_EQ(error_of([&] { TokenSet::open(packed.folder, "train").verify(); }), "");
}

TEST(Shards, SetsAreCompleteAndOfOnePacking) {
  const Packed packed, other(500);
  const auto open_error = [&] { return error_of([&] { TokenSet::open(packed.folder, "train"); }); };
  fs::copy_file(other.shard(1), packed.shard(1), fs::copy_options::overwrite_existing);
  expect_contains(open_error(), "different packings");
  fs::copy_file(packed.shard(0), packed.shard(1), fs::copy_options::overwrite_existing);
  expect_contains(open_error(), "index: expected 1, found 0");
  fs::remove(packed.shard(1));
  expect_contains(open_error(), "train-00001.tokens: cannot open");
}

/// Headers whose checksums agree but whose numbers lie: nothing is allocated or read for them.
TEST(Shards, LyingHeaders) {
  const Scratch scratch;
  TokenBuffer buffer;
  buffer.append(std::vector<int32_t>{1, 2, 3}, true);
  buffer.documents = {0, 2 | kIsolatedDocument};
  ShardHeader header;
  header.vocab = 5;
  header.last = true;
  write_shard(scratch / "train-00000.tokens", buffer, header);
  const std::string good = read_file(scratch / "train-00000.tokens");
  const auto open_error = [&](size_t offset, uint64_t value, size_t bytes) {
    std::string bad = good;
    std::memcpy(bad.data() + offset, &value, bytes);
    const uint32_t tables = crc32_update(0, std::as_bytes(std::span(bad)).subspan(80 + 8));
    std::memcpy(bad.data() + 72, &tables, 4);
    const uint32_t crc = crc32_update(0, std::as_bytes(std::span(bad)).first(76));
    std::memcpy(bad.data() + 76, &crc, 4);
    scratch.write("train-00000.tokens", bad);
    return error_of([&] { contents(TokenSet::open(scratch.path(), "train")); });
  };
  EXPECT_EQ(open_error(0, 'S', 1), "");
  expect_contains(open_error(8, 2, 4), "version: expected 1, found 2");
  expect_contains(open_error(12, 3, 4), "token bytes");
  expect_contains(open_error(16, 0, 8), "vocabulary");
  expect_contains(open_error(16, 65537, 8), "vocabulary");
  expect_contains(open_error(16, 3, 8), "expected ids below 3, found 3");
  for (const uint64_t n : {uint64_t{0}, uint64_t{13}, uint64_t{1} << 62, UINT64_MAX}) {
    expect_contains(open_error(24, n, 8), "tokens: expected 1 to");
  }
  expect_contains(open_error(24, 5, 8), "size: expected");
  for (const uint64_t n : {uint64_t{4}, uint64_t{1} << 61, UINT64_MAX}) {
    expect_contains(open_error(32, n, 8), "documents: expected at most");
  }
  expect_contains(open_error(32, 1, 8), "size: expected");
  expect_contains(open_error(40, UINT64_MAX, 8), "text bytes");
  expect_contains(open_error(48, 6, 4), "flags");
  expect_contains(open_error(48, 3, 4), "size: expected");
  expect_contains(open_error(48, 0, 4), "train-00001.tokens");
  expect_contains(open_error(88, 3, 8), "document 0");
  expect_contains(open_error(96, 0, 8), "document 1");
}

TEST(Shards, WideTokens) {
  const Scratch scratch;
  TokenBuffer buffer;
  buffer.append(std::vector<int32_t>{70000, 2, 129279}, true);
  buffer.append(std::vector<int32_t>{1, 4, 5, 6, 7, 8}, false);
  buffer.append(std::vector<int32_t>{9, 10}, true);
  buffer.documents = {0, 3};
  ShardHeader header;
  header.vocab = 129280;
  header.last = true;
  write_shard(scratch / "train-00000.tokens", buffer, header);
  const TokenSet set = TokenSet::open(scratch.path(), "train");
  EXPECT_EQ(set.token_bytes(), 4);
  EXPECT_EQ(contents(set).ids, buffer.tokens);
  EXPECT_EQ(contents(set).loss, (std::vector<uint8_t>{1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(set.target_tokens(), 5);
}

TEST(TokenSet, HoldOut) {
  TokenRange train(counting_set(1000));
  const TokenRange held = hold_out(train, 0.05);
  EXPECT_EQ(train.begin, 0);
  EXPECT_EQ(train.end, 950);
  EXPECT_EQ(held.begin, 950);
  EXPECT_EQ(held.end, 1000);
  TokenRange tiny(counting_set(4));
  EXPECT_EQ(hold_out(tiny, 0.001).size(), 2);
  EXPECT_NE(error_of([&] { hold_out(tiny, 0.5); }), "");
  EXPECT_NE(error_of([&] { hold_out(train, 1); }), "");
}

TEST(TokenSet, ByteLengthsAddUpToTheText) {
  const Scratch scratch;
  const std::string text = sample_text(5000);
  const TokenSet set = pack({scratch.write("a.txt", text)});
  const auto lengths = token_byte_lengths(test_tokenizer());
  int64_t bytes = 0;
  for (const int32_t id : contents(set).ids) bytes += lengths[static_cast<size_t>(id)];
  EXPECT_EQ(bytes, static_cast<int64_t>(text.size()));
}

TEST(PackSummary, OneLine) {
  const Scratch scratch;
  PackSummary summary;
  pack({scratch.write("a.txt",
                      "\xef\xbb\xbf"
                      "a\r\nb\r\n\xff"),
        scratch.write("b.txt", "b")},
       {}, &summary);
  const std::string line = format_summary(summary);
  EXPECT_EQ(line.rfind("2 files, 2 documents, 12 tokens (", 0), 0u) << line;
  expect_contains(line, "; repaired: 1 ill-formed UTF-8 sequence, 2 CRLF line ends, 1 byte order mark");
  EXPECT_EQ(format_summary({.files = 1, .documents = 1234567, .reader = {}}), "1 file, 1,234,567 documents");
}

}  // namespace
}  // namespace sluice
