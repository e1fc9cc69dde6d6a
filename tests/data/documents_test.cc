#include "data/documents.h"

#include "test_data.h"

namespace sluice {
namespace {

std::string read_all(const fs::path& path, size_t step) {
  const auto reader = ByteReader::open(path);
  std::string out, block(step, '\0');
  while (const size_t n = reader->read(block)) out.append(block, 0, n);
  return out;
}

struct Document {
  std::string text;
  int pieces = 0;
  bool chat = false;
  std::vector<std::pair<size_t, size_t>> targets;
};

std::vector<Document> read_documents(const fs::path& file, const std::optional<std::string>& split_at = {},
                                     ReaderCounts* counts = nullptr) {
  DocumentReader reader(file, split_at);
  std::vector<Document> documents;
  bool open = false;
  for (Piece piece; reader.next(piece);) {
    EXPECT_EQ(piece.begins, !open);
    if (piece.begins) documents.emplace_back();
    open = !piece.ends;
    EXPECT_LE(piece.text.size(), piece.chat ? size_t{1} << 30 : kPieceBytes);
    documents.back().text += piece.text;
    documents.back().chat = piece.chat;
    documents.back().targets = piece.targets;
    ++documents.back().pieces;
  }
  EXPECT_FALSE(open);
  if (counts) *counts = reader.counts();
  return documents;
}

std::vector<std::string> texts(const fs::path& file, const std::optional<std::string>& split_at = {}) {
  std::vector<std::string> out;
  for (const Document& d : read_documents(file, split_at)) out.push_back(d.text);
  return out;
}

TEST(ByteReader, PlainAndCompressed) {
  const Scratch scratch;
  const std::string text = sample_text(700000), half = text.substr(0, 300000), rest = text.substr(300000);
  const std::vector<fs::path> files{
      scratch.write("a.txt", text), scratch.write("a.txt.gz", gzip(text)), scratch.write("a.txt.zst", zstd(text)),
      scratch.write("b.txt.gz", gzip(half) + gzip(rest)),  // members of parallel compressors
      scratch.write("b.txt.zst", zstd(half) + zstd(rest))};
  for (const fs::path& file : files) {
    for (const size_t step : {size_t{1000}, size_t{65536}, size_t{1} << 20})
      EXPECT_EQ(read_all(file, step), text) << file;
  }
  EXPECT_EQ(read_all(scratch.write("one.gz", gzip("x")), 1), "x");
  EXPECT_EQ(read_all(scratch.write("empty.gz", gzip("")), 10), "");
  EXPECT_EQ(read_all(scratch.write("empty.zst", zstd("")), 10), "");
  EXPECT_EQ(read_all(scratch.write("bomb.gz", gzip(std::string(3000000, 'a'))), 4096).size(), 3000000u);
}

TEST(ByteReader, TruncatedAndCorrupt) {
  const Scratch scratch;
  const std::string text = sample_text(100000);
  for (const auto& [name, bytes] : {std::pair{"t.gz", gzip(text)}, std::pair{"t.zst", zstd(text)}}) {
    for (const size_t keep : {size_t{0}, size_t{1}, size_t{5}, bytes.size() / 2, bytes.size() - 1}) {
      const auto file = scratch.write(name, bytes.substr(0, keep));
      const std::string error = error_of([&] { read_all(file, 4096); });
      expect_contains(error, file.string());
      expect_contains(error, "truncated");
    }
    std::string bad = bytes;
    bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 0x55);
    bad[bad.size() / 2 + 1] = static_cast<char>(bad[bad.size() / 2 + 1] ^ 0x55);
    EXPECT_NE(error_of([&, file = scratch.write(name, bad)] { read_all(file, 4096); }), "") << name;
    expect_contains(error_of([&, file = scratch.write(name, text)] { read_all(file, 4096); }), name);
    expect_contains(error_of([&, file = scratch.write(name, bytes + "garbage")] { read_all(file, 4096); }), name);
  }
  expect_contains(error_of([&] { ByteReader::open(scratch / "none.txt"); }), "none.txt");
  expect_contains(error_of([&] { ByteReader::open(scratch.path()); }), "expected a regular file");
}

TEST(FindDataFiles, PathsFoldersGlobs) {
  const Scratch scratch;
  const auto a = scratch.write("a.txt", "a"), b = scratch.write("sub/b.jsonl.gz", ""),
             c = scratch.write("sub/c.md", "c");
  const auto other = scratch.write("sub/d.png", "d");
  const auto find = [&](std::vector<std::string> patterns) { return find_data_files(patterns); };
  using Files = std::vector<fs::path>;
  EXPECT_EQ(find({scratch.path()}), (Files{a, b, c}));
  EXPECT_EQ(find({other}), (Files{other}));  // a file may have any name
  EXPECT_EQ(find({(scratch / "*.txt"), (scratch / "s*"), a}), (Files{a, b, c}));
  EXPECT_EQ(find({}), Files());
  const std::string none = scratch / "*.text";
  EXPECT_EQ(error_of([&] { find({a, none}); }), none + ": expected data files, found none that match");
  fs::create_directories(scratch / "empty");
  expect_contains(error_of([&] { find({scratch / "empty"}); }), "empty: expected .txt");
}

TEST(DocumentReader, SmallTextFiles) {
  const Scratch scratch;
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts(scratch.write("empty.txt", "")), Texts());
  EXPECT_EQ(texts(scratch.write("one.txt", "x")), Texts{"x"});
  EXPECT_EQ(texts(scratch.write("bom.txt", "\xef\xbb\xbf")), Texts());
  EXPECT_EQ(texts(scratch.write("cr.txt", "\r\n")), Texts{"\n"});
  ReaderCounts counts;
  const auto d = read_documents(scratch.write("bad.txt.gz", gzip("\xef\xbb\xbf"
                                                                 "a\xff\r\nb")),
                                {}, &counts);
  ASSERT_EQ(d.size(), 1u);
  EXPECT_EQ(d[0].text, "a\xef\xbf\xbd\nb");
  EXPECT_EQ(counts.repairs.bad_utf8, 1);
  EXPECT_EQ(counts.repairs.crlf, 1);
  EXPECT_EQ(counts.repairs.byte_order_marks, 1);
  expect_contains(error_of([&] {
                    texts(scratch.write("wide.txt", std::string("\xff\xfe"
                                                                "a\0",
                                                                4)));
                  }),
                  "UTF-16");
}

TEST(DocumentReader, SplitsAtMarkers) {
  const Scratch scratch;
  using Texts = std::vector<std::string>;
  const auto file = scratch.write("m.txt", "<end>\none\ntwo\n<end>\n<end>\nthree <end>\n<end>x\n<end>");
  EXPECT_EQ(texts(file, "<end>"), (Texts{"one\ntwo\n", "three <end>\n<end>x\n"}));
  EXPECT_EQ(texts(scratch.write("e.txt", "a\nb\n\n\n\nc\r\n\r\nd"), ""), (Texts{"a\nb\n", "c\n", "d"}));
  // Longer than a block and a piece, with documents that end exactly where pieces are cut.
  Texts expected;
  std::string all;
  for (unsigned i = 0; i < 12; ++i) {
    expected.push_back(sample_text(i % 3 == 0 ? kPieceBytes - 2 + i / 3 : 1000 * i * i * i, i) + "x\n");
    std::string once;
    for (const char c : expected.back()) {
      if (c != '\n' || once.empty() || once.back() != '\n') once += c;
    }
    expected.back() = once;
    all += once + "\n";
  }
  EXPECT_EQ(texts(scratch.write("l.txt", all), ""), expected);
  // No line end at all: the marker inside a line is none.
  const std::string line = std::string(kPieceBytes * 2, 'a') + "<end>" + std::string(kPieceBytes, 'b');
  EXPECT_EQ(texts(scratch.write("line.txt", line + "\n<end>\nz"), "<end>"), (Texts{line + "\n", "z"}));
  // A piece ends inside a line whose rest looks like the marker.
  const std::string start(kPieceBytes, 'a');
  const auto frames = scratch.write("frames.txt.zst", zstd(start + "<en") + zstd("d>\nz"));
  EXPECT_EQ(texts(frames, "<end>"), Texts{start + "<end>\nz"});
}

TEST(DocumentReader, CutsLongDocumentsWhereWordsEnd) {
  const Scratch scratch;
  std::string dense, letters = sample_text(900000).append(kPieceBytes, 'a');
  while (dense.size() < 800000) dense += "李";
  // In the others a word is longer than a piece: other tokens, the same text, whole characters.
  const std::vector<std::pair<std::string, bool>> cases{
      {sample_text(1000000), true}, {std::string(kPieceBytes * 2 + 7, '\n'), false}, {letters, false}, {dense, false}};
  for (const auto& [text, same_tokens] : cases) {
    DocumentReader reader(scratch.write("long.txt", text), {});
    std::string joined;
    std::vector<int32_t> ids, whole;
    for (Piece piece; reader.next(piece);) {
      joined += piece.text;
      EXPECT_NE(static_cast<unsigned char>(piece.text[0]) & 0xc0, 0x80);
      if (same_tokens) test_tokenizer().encode(piece.text, false, ids);
    }
    EXPECT_EQ(joined, text);
    if (same_tokens) test_tokenizer().encode(text, false, whole);
    EXPECT_EQ(ids, whole);
  }
}

TEST(DocumentReader, JsonLines) {
  const Scratch scratch;
  const std::string long_text = sample_text(600000);
  std::string escaped;
  for (const char c : long_text) escaped += c == '\n' ? "\\n" : c == '"' ? "\\\"" : std::string(1, c);
  const std::string lines =
      "\xef\xbb\xbf{\"text\": \"a\\r\\nb\", \"other\": 1}\r\n\n  \n{\"text\":\"\"}\n{\"text\":\"" + escaped +
      "\"}\n{\"text\":\"last\xff\"}";
  ReaderCounts counts;
  const auto d = read_documents(scratch.write("a.jsonl.zst", zstd(lines)), "a", &counts);
  ASSERT_EQ(d.size(), 3u);
  EXPECT_EQ(d[0].text, "a\nb");
  EXPECT_EQ(d[1].text, long_text);
  EXPECT_GE(d[1].pieces, 3);
  EXPECT_EQ(d[2].text, "last\xef\xbf\xbd");
  EXPECT_EQ(counts.repairs.bad_utf8, 1);
  EXPECT_EQ(counts.repairs.crlf, 2);
  EXPECT_EQ(counts.repairs.byte_order_marks, 1);
  const auto bad = scratch.write("bad.jsonl", "{\"text\": \"ok\"}\n\n{\"txt\": 1}\n");
  expect_contains(error_of([&] { texts(bad); }), bad.string() + ":3");
  const auto broken = scratch.write("broken.jsonl", "{\"text\": \"ok\"}\n{\"text\": \"cut");
  expect_contains(error_of([&] { texts(broken); }), broken.string() + ":2");
}

TEST(DocumentReader, Chats) {
  const Scratch scratch;
  const auto file = scratch.write(
      "c.jsonl",
      "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\\r\\n\"},{\"role\":\"assistant\",\"content\":\"Hello\"},"
      "{\"role\":\"user\",\"content\":\"?\"},{\"role\":\"assistant\",\"content\":\"!\"}]}\n"
      "{\"messages\":[{\"role\":\"user\",\"content\":\"alone\"}]}\n{\"text\":\"plain\"}\n");
  ReaderCounts counts;
  const auto d = read_documents(file, {}, &counts);
  ASSERT_EQ(d.size(), 2u);
  EXPECT_TRUE(d[0].chat);
  EXPECT_EQ(d[0].text,
            "<｜begin▁of▁sentence｜><｜User｜>Hi\n<｜Assistant｜>Hello<｜end▁of▁sentence｜><｜User｜>?<｜Assistant｜>!<"
            "｜end▁of▁sentence｜>");
  ASSERT_EQ(d[0].targets.size(), 2u);
  const auto [begin, end] = d[0].targets[0];
  EXPECT_EQ(d[0].text.substr(begin, end - begin), "Hello<｜end▁of▁sentence｜>");
  EXPECT_FALSE(d[1].chat);
  EXPECT_EQ(d[1].text, "plain");
  EXPECT_EQ(counts.silent_chats, 1);
  const auto bad = scratch.write("r.jsonl", "{\"messages\":[{\"role\":\"wizard\",\"content\":\"x\"}]}\n");
  const std::string error = error_of([&] { texts(bad); });
  expect_contains(error, bad.string() + ":1");
  expect_contains(error, "wizard");
}

}  // namespace
}  // namespace sluice
