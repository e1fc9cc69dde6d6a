#include "data/pack.h"

#include <algorithm>
#include <cstdio>

#include "base/error.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "data/shard.h"

namespace sluice {
namespace {

constexpr size_t kBatchBytesPerThread = size_t{1} << 20;

/// A run of tokens that are all in the loss or all not.
struct Run {
  size_t tokens;
  bool in_loss;
};

/// One piece, tokenised.
struct Encoded {
  std::vector<int32_t> ids;
  std::vector<Run> runs;
  bool fim = false;
};

struct FimTokens {
  int32_t begin, hole, end;
};

FimTokens fim_tokens(const Tokenizer& tokenizer) {
  const auto id = [&](const char* token) {
    const auto found = tokenizer.id_of(token);
    if (!found) fail("FIM rate: expected a tokenizer with the token {}, found none", token);
    return *found;
  };
  return {id("<｜fim▁begin｜>"), id("<｜fim▁hole｜>"), id("<｜fim▁end｜>")};
}

/// A random position between two characters of `text` (or at an end).
size_t character_boundary(std::string_view text, Rng& rng) {
  size_t p = rng.below(text.size() + 1);
  while (p < text.size() && (static_cast<unsigned char>(text[p]) & 0xc0) == 0x80) --p;
  return p;
}

/// Takes finished buffers; each but the last is a shard that is full.
class Sink {
 public:
  Sink(fs::path folder, std::string split, const TokenSetInfo& info)
      : folder_(std::move(folder)), split_(std::move(split)), info_(info) {}
  void write(const TokenBuffer& buffer, bool last) {
    ShardHeader header;
    header.vocab = static_cast<uint64_t>(info_.vocab);
    header.tokenizer = info_.tokenizer;
    header.index = index_;
    header.last = last;
    header.previous_crc = previous_;
    previous_ = write_shard(folder_ / shard_name(split_, index_++), buffer, header).crc;
  }

 private:
  fs::path folder_;
  std::string split_;
  TokenSetInfo info_;
  uint32_t index_ = 0, previous_ = 0;
};

class Packer {
 public:
  /// `sink` null: everything stays in the buffer.
  Packer(const Tokenizer& tokenizer, const PackOptions& options, Sink* sink)
      : tokenizer_(tokenizer), options_(options), sink_(sink), pool_(options.threads) {
    if (!(options.fim_rate >= 0 && options.fim_rate <= 1)) {
      fail("FIM rate: expected a number between 0 and 1, found {}", options.fim_rate);
    }
    if (tokenizer.eos_id() == Tokenizer::kNone)
      fail("tokenizer: expected an eos_token, which ends documents, found none");
    if (options.fim_rate > 0) fim_ = fim_tokens(tokenizer);
  }

  void pack(const std::vector<fs::path>& files);
  TokenBuffer take_buffer() { return std::move(buffer_); }
  const PackSummary& summary() const { return summary_; }

 private:
  void add(Piece piece);
  void flush();
  void encode(const Piece& piece, int64_t document, Encoded& out) const;
  void encode_chat(const Piece& piece, Encoded& out) const;
  void encode_fim(const std::string& text, Rng& rng, std::vector<int32_t>& ids) const;
  bool is_fim(const Piece& piece, Rng& rng) const;
  void append(const Piece& piece, const Encoded& encoded);

  const Tokenizer& tokenizer_;
  const PackOptions& options_;
  Sink* sink_;
  ThreadPool pool_;
  FimTokens fim_{};
  std::vector<Piece> pieces_;
  std::vector<int64_t> documents_;  // number of the document of each piece
  std::vector<Encoded> encoded_;
  size_t waiting_bytes_ = 0;
  int64_t document_ = -1;
  TokenBuffer buffer_;
  PackSummary summary_;
};

void Packer::pack(const std::vector<fs::path>& files) {
  int64_t total = 0, done = 0;
  for (const fs::path& file : files) {
    std::error_code ignored;
    const auto size = fs::file_size(file, ignored);
    if (!ignored) total += static_cast<int64_t>(size);
  }
  for (const fs::path& file : files) {
    DocumentReader reader(file, options_.split_at);
    for (Piece piece; reader.next(piece);) {
      add(std::move(piece));
      if (options_.progress && pieces_.empty()) options_.progress(done + reader.file_bytes(), total);
    }
    done += reader.file_bytes();
    summary_.reader.repairs.add(reader.counts().repairs);
    summary_.reader.silent_chats += reader.counts().silent_chats;
    ++summary_.files;
  }
  flush();
  if (summary_.tokens == 0) {
    fail("{}{}: expected text, found none", files.empty() ? "data" : files.front().string(),
         files.size() > 1 ? fmt::format(" and {} more files", files.size() - 1) : "");
  }
  if (sink_) sink_->write(buffer_, true);
  if (options_.progress) options_.progress(done, total);
}

void Packer::add(Piece piece) {
  if (piece.begins) ++document_;
  waiting_bytes_ += piece.text.size() + sizeof(Piece);
  documents_.push_back(document_);
  pieces_.push_back(std::move(piece));
  if (waiting_bytes_ >= kBatchBytesPerThread * static_cast<size_t>(pool_.size())) flush();
}

void Packer::flush() {
  encoded_.resize(std::max(encoded_.size(), pieces_.size()));
  pool_.run(static_cast<int64_t>(pieces_.size()), [&](int64_t task, int) {
    const auto i = static_cast<size_t>(task);
    encoded_[i].ids.clear();  // keeps its memory
    encoded_[i].runs.clear();
    try {
      encode(pieces_[i], documents_[i], encoded_[i]);
    } catch (const Error& e) {
      fail("{}: {}", pieces_[i].where, e.what());
    }
  });
  for (size_t i = 0; i < pieces_.size(); ++i) append(pieces_[i], encoded_[i]);
  pieces_.clear();
  documents_.clear();
  waiting_bytes_ = 0;
}

bool Packer::is_fim(const Piece& piece, Rng& rng) const {
  return piece.begins && piece.ends && !piece.chat && options_.fim_rate > 0 && rng.uniform() < options_.fim_rate;
}

void Packer::encode(const Piece& piece, int64_t document, Encoded& out) const {
  out.fim = false;
  if (piece.chat) return encode_chat(piece, out);
  Rng rng(options_.seed, static_cast<uint64_t>(document));
  if (piece.begins && tokenizer_.add_bos()) out.ids.push_back(tokenizer_.bos_id());
  out.fim = is_fim(piece, rng);
  if (out.fim) {
    encode_fim(piece.text, rng, out.ids);
  } else {
    tokenizer_.encode(piece.text, false, out.ids);
  }
  if (piece.ends) out.ids.push_back(tokenizer_.eos_id());
  out.runs.push_back({out.ids.size(), true});
}

void Packer::encode_fim(const std::string& text, Rng& rng, std::vector<int32_t>& ids) const {
  const size_t a = character_boundary(text, rng), b = character_boundary(text, rng);
  const size_t from = std::min(a, b), to = std::max(a, b);
  const std::string_view all = text;
  ids.push_back(fim_.begin);
  tokenizer_.encode(all.substr(0, from), false, ids);
  ids.push_back(fim_.hole);
  tokenizer_.encode(all.substr(to), false, ids);
  ids.push_back(fim_.end);
  tokenizer_.encode(all.substr(from, to - from), false, ids);
}

void Packer::encode_chat(const Piece& piece, Encoded& out) const {
  for (const char* token : {"<｜User｜>", "<｜Assistant｜>"}) {
    if (!tokenizer_.id_of(token)) fail("messages: expected a tokenizer with the token {}, found none", token);
  }
  const std::string_view text = piece.text;
  size_t at = 0;
  const auto run = [&](size_t end, bool in_loss) {
    const size_t before = out.ids.size();
    tokenizer_.encode(text.substr(at, end - at), true, out.ids);
    out.runs.push_back({out.ids.size() - before, in_loss});
    at = end;
  };
  for (const auto& [begin, end] : piece.targets) {
    run(begin, false);
    run(end, true);
  }
  run(text.size(), false);
}

void Packer::append(const Piece& piece, const Encoded& encoded) {
  // Before the piece, not after: the last shard is written by pack(), and a chat is never cut.
  if (sink_ && static_cast<int64_t>(buffer_.tokens.size()) >= options_.shard_tokens) {
    sink_->write(buffer_, false);
    buffer_ = {};
  }
  // An empty chat cannot be: it holds its begin-of-sentence token. So entries of the table ascend.
  if (piece.begins) buffer_.documents.push_back(buffer_.tokens.size() | (piece.chat ? kIsolatedDocument : 0));
  size_t at = 0;
  for (const Run& run : encoded.runs) {
    buffer_.append(std::span(encoded.ids).subspan(at, run.tokens), run.in_loss);
    at += run.tokens;
  }
  const auto bytes = static_cast<int64_t>(piece.text.size());
  buffer_.text_bytes += bytes;
  summary_.text_bytes += bytes;
  summary_.tokens += static_cast<int64_t>(at);
  summary_.fim_documents += encoded.fim ? 1 : 0;
  if (!piece.begins) return;
  (piece.chat ? summary_.chats : summary_.documents) += 1;
}

TokenSetInfo set_info(const Tokenizer& tokenizer) {
  return {.vocab = tokenizer.vocab_size(), .tokenizer = tokenizer_fingerprint(tokenizer), .text_bytes = 0};
}

/// Removes what a killed run left. Removes nothing but shards and their temporary files.
void clear_partial(const fs::path& partial) {
  std::error_code error;
  if (!fs::exists(partial, error)) return;
  for (const auto& entry : fs::directory_iterator(partial, error)) {
    const auto extension = entry.path().extension();
    if (extension == ".tokens" || extension == ".tmp") fs::remove(entry.path(), error);
  }
  if (!fs::remove(partial, error)) {
    fail("{}: cannot remove what an earlier run left: {}", partial.string(), error.message());
  }
}

std::string grouped(int64_t n) {
  const std::string digits = fmt::format("{}", n);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

}  // namespace

std::string format_summary(const PackSummary& s) {
  std::string line = fmt::format("{} {}", grouped(s.files), s.files == 1 ? "file" : "files");
  const auto item = [&](int64_t n, const char* one, const char* many) {
    if (n > 0) line += fmt::format(", {} {}", grouped(n), n == 1 ? one : many);
  };
  item(s.documents, "document", "documents");
  item(s.chats, "chat", "chats");
  item(s.fim_documents, "fill-in-the-middle", "fill-in-the-middle");
  item(s.tokens, "token", "tokens");
  if (s.tokens > 0) {
    line += fmt::format(" ({:.2f} bytes each)", static_cast<double>(s.text_bytes) / static_cast<double>(s.tokens));
  }
  const size_t packed = line.size();
  item(s.reader.repairs.bad_utf8, "ill-formed UTF-8 sequence", "ill-formed UTF-8 sequences");
  item(s.reader.repairs.crlf, "CRLF line end", "CRLF line ends");
  item(s.reader.repairs.byte_order_marks, "byte order mark", "byte order marks");
  if (line.size() > packed) line.replace(packed, 1, "; repaired:");
  const size_t repaired = line.size();
  item(s.reader.silent_chats, "chat without an assistant message", "chats without an assistant message");
  if (line.size() > repaired) line.replace(repaired, 1, "; left out:");
  return line;
}

TokenSet pack_to_memory(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const PackOptions& options,
                        PackSummary* summary) {
  Packer packer(tokenizer, options, nullptr);
  packer.pack(files);
  if (summary) *summary = packer.summary();
  const std::string name = files.front().string();
  return {packer.take_buffer(), set_info(tokenizer),
          files.size() == 1 ? name : fmt::format("{} and {} more", name, files.size() - 1)};
}

void check_held_out(const PackFiles& files) {
  for (const fs::path& eval : files.eval) {
    for (const fs::path& train : files.train) {
      std::error_code ignored;
      if (train == eval || fs::equivalent(train, eval, ignored)) {
        fail("{}: expected a file in training or in held-out data, found it in both", eval.string());
      }
    }
  }
}

FolderSummary pack_to_folder(const PackFiles& files, const Tokenizer& tokenizer, const PackOptions& options,
                             const fs::path& folder) {
  check_held_out(files);
  const fs::path out = folder.has_filename() ? folder : folder.parent_path();
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_empty(out, error)) {
    fail("{}: expected a new or empty folder, found files in it", out.string());
  }
  const fs::path partial = out.string() + ".partial";
  clear_partial(partial);
  if (!fs::create_directories(partial, error)) fail("{}: cannot create: {}", partial.string(), error.message());
  FolderSummary summary;
  const auto pack_split = [&](const std::vector<fs::path>& split_files, const char* split, const PackOptions& o) {
    Sink sink(partial, split, set_info(tokenizer));
    Packer packer(tokenizer, o, &sink);
    packer.pack(split_files);
    return packer.summary();
  };
  summary.train = pack_split(files.train, "train", options);
  if (!files.eval.empty()) {
    PackOptions without_fim = options;
    without_fim.fim_rate = 0;
    summary.eval = pack_split(files.eval, "eval", without_fim);
  }
  fs::rename(partial, out, error);
  if (error) fail("{}: cannot rename {}: {}", out.string(), partial.string(), error.message());
  sync_directory(out.parent_path());
  return summary;
}

}  // namespace sluice
