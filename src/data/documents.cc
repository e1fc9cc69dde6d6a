#include "data/documents.h"

#include <glob.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/error.h"
#include "formats/json_lines.h"
#include "tokenizer/chat_template.h"

namespace sluice {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 18;
constexpr size_t kMaxLineBytes = size_t{1} << 28;

/// The extension before .gz or .zst.
std::string data_extension(const fs::path& file) {
  const auto extension = file.extension();
  return (extension == ".gz" || extension == ".zst" ? file.stem().extension() : extension).string();
}

bool is_json_lines(const fs::path& file) {
  const std::string extension = data_extension(file);
  return extension == ".jsonl" || extension == ".ndjson";
}

bool is_data_file(const fs::path& file) {
  constexpr std::array kText{".txt", ".text", ".md"};
  return is_json_lines(file) || std::find(kText.begin(), kText.end(), data_extension(file)) != kText.end();
}

/// Appends the file `path`, or the data files of the folder `path`.
void add_files(const fs::path& path, std::vector<fs::path>& files) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    files.push_back(path);
    return;
  }
  const size_t begin = files.size();
  fs::recursive_directory_iterator entry(path, fs::directory_options::skip_permission_denied, error), end;
  for (; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_regular_file(ignored) && is_data_file(entry->path())) files.push_back(entry->path());
  }
  if (error) fail("{}: cannot list: {}", path.string(), error.message());
  std::sort(files.begin() + static_cast<std::ptrdiff_t>(begin), files.end());
}

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Where to cut a text of more than kPieceBytes: at most there, so that both sides give the tokens of the whole. Words
/// of the pre-tokenizer end after a newline that no white space follows and before a single space.
size_t cut_point(std::string_view text) {
  const auto last = [&](auto&& good) {
    for (size_t p = kPieceBytes; p > kPieceBytes / 2; --p) {
      if (good(p)) return p;
    }
    return size_t{0};
  };
  if (const size_t p = last([&](size_t i) { return text[i - 1] == '\n' && !is_space(text[i]); })) return p;
  const auto before_word = [&](size_t i) {
    return text[i] == ' ' && !is_space(text[i - 1]) && i + 1 < text.size() && !is_space(text[i + 1]);
  };
  if (const size_t p = last(before_word)) return p;
  return last([&](size_t i) { return (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80; });
}

std::string clean_string(const std::string& text, Repairs& repairs) {
  TextCleaner cleaner;
  std::string out;
  cleaner.feed(text, out);
  cleaner.finish(out);
  repairs.add(cleaner.repairs());
  return out;
}

}  // namespace

std::vector<fs::path> find_data_files(std::span<const std::string> patterns) {
  std::vector<fs::path> files;
  for (const std::string& pattern : patterns) {
    const size_t before = files.size();
    std::error_code error;
    if (fs::exists(pattern, error)) {
      add_files(pattern, files);
      if (files.size() == before) fail("{}: expected .txt, .md or .jsonl files in the folder, found none", pattern);
      continue;
    }
    glob_t matches{};
    const int result = glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &matches);
    for (size_t i = 0; result == 0 && i < matches.gl_pathc; ++i) add_files(matches.gl_pathv[i], files);
    globfree(&matches);
    if (files.size() == before) fail("{}: expected data files, found none that match", pattern);
  }
  std::set<fs::path> seen;
  std::erase_if(files, [&](const fs::path& file) { return !seen.insert(file.lexically_normal()).second; });
  return files;
}

DocumentReader::DocumentReader(const fs::path& file, const std::optional<std::string>& split_at)
    : name_(file.string()),
      reader_(ByteReader::open(file)),
      lines_(is_json_lines(file)),
      split_at_(split_at),
      block_(kBlockBytes) {}

bool DocumentReader::next(Piece& piece) {
  piece = {};
  piece.where = name_;
  const bool found = lines_ ? next_of_lines(piece) : next_of_text(piece);
  counts_.repairs = cleaner_.repairs();
  counts_.repairs.add(record_repairs_);
  return found;
}

bool DocumentReader::fill() {
  if (at_end_) return false;
  buffer_.erase(0, pos_);
  scan_ -= std::min(scan_, pos_);
  pos_ = 0;
  const size_t n = reader_->read(block_);
  const std::string_view bytes(block_.data(), n);
  if (first_block_ && (bytes.starts_with("\xff\xfe") || bytes.starts_with("\xfe\xff"))) {
    fail("{}: expected UTF-8 text, found UTF-16 (its byte order mark)", name_);
  }
  first_block_ = false;
  at_end_ = n == 0;
  if (at_end_) {
    cleaner_.finish(buffer_);
  } else {
    cleaner_.feed(bytes, buffer_);
  }
  return true;
}

bool DocumentReader::find_marker() {
  if (!split_at_) return false;
  while (scan_ < buffer_.size()) {
    const size_t newline = buffer_.find('\n', scan_);
    if (newline == std::string::npos && !at_end_) return false;
    const size_t line_end = std::min(newline, buffer_.size());
    const bool is_marker = !mid_line_ && std::string_view(buffer_).substr(scan_, line_end - scan_) == *split_at_;
    marker_end_ = std::min(line_end + 1, buffer_.size());
    if (is_marker) return true;
    scan_ = marker_end_;
    mid_line_ = false;
  }
  return false;
}

bool DocumentReader::next_of_text(Piece& piece) {
  while (true) {
    const bool marker = find_marker();
    const size_t end = marker ? scan_ : buffer_.size();
    const std::string_view text = std::string_view(buffer_).substr(pos_, end - pos_);
    const bool complete = marker || at_end_;
    if (text.size() > kPieceBytes) {
      piece.text = text.substr(0, cut_point(text));
    } else if (!complete) {
      fill();
      continue;
    } else {
      piece.text = text;
      piece.ends = true;
    }
    pos_ += piece.text.size();
    if (pos_ > scan_) {
      scan_ = pos_;
      mid_line_ = buffer_[pos_ - 1] != '\n';
    }
    if (piece.ends && marker) pos_ = scan_ = marker_end_;
    piece.begins = !in_document_;
    in_document_ = !piece.ends;
    if (!piece.begins || !piece.text.empty()) return true;
    if (!marker) return false;
  }
}

std::optional<std::string> DocumentReader::next_line() {
  size_t newline;
  while ((newline = buffer_.find('\n', scan_)) == std::string::npos) {
    scan_ = buffer_.size();
    if (scan_ - pos_ > kMaxLineBytes) fail("{}:{}: expected a line of at most 2^28 bytes", name_, line_ + 1);
    if (!fill()) break;
  }
  if (pos_ == buffer_.size()) return std::nullopt;
  std::string line = buffer_.substr(pos_, std::min(newline, buffer_.size()) - pos_);
  pos_ = scan_ = std::min(pos_ + line.size() + 1, buffer_.size());
  ++line_;
  return line;
}

bool DocumentReader::next_of_lines(Piece& piece) {
  while (record_pos_ == record_.size() && !piece.chat) {
    const auto line = next_line();
    if (!line) return false;
    if (!std::all_of(line->begin(), line->end(), is_space)) read_record(*line, piece);
  }
  piece.where = fmt::format("{}:{}", name_, line_);
  if (piece.chat) return true;
  piece.begins = !in_document_;
  const std::string_view rest = std::string_view(record_).substr(record_pos_);
  piece.ends = rest.size() <= kPieceBytes;
  in_document_ = !piece.ends;
  piece.text = rest.substr(0, piece.ends ? rest.size() : cut_point(rest));
  record_pos_ += piece.text.size();
  return true;
}

void DocumentReader::read_record(const std::string& line, Piece& piece) {
  const JsonRecord record = parse_json_record(line, name_, line_);
  if (record.text) {
    record_ = clean_string(*record.text, record_repairs_);
    record_pos_ = 0;
    return;
  }
  std::vector<ChatTurn> turns(record.messages.size());
  for (size_t i = 0; i < turns.size(); ++i) {
    turns[i].role = record.messages[i].role;
    turns[i].content = clean_string(record.messages[i].content, record_repairs_);
  }
  try {
    ChatText chat = render_chat_spans(turns, false);
    if (chat.assistant.empty()) {
      ++counts_.silent_chats;
      return;
    }
    piece.text = std::move(chat.text);
    piece.targets = std::move(chat.assistant);
    piece.chat = piece.begins = piece.ends = true;
  } catch (const Error& e) {
    fail("{}:{}: {}", name_, line_, e.what());
  }
}

}  // namespace sluice
