// Files of text, JSONL text or JSONL chats -> clean documents, streamed.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/byte_reader.h"
#include "data/text_cleaner.h"

namespace sluice {

/// Longer documents come in several pieces, so that memory stays bounded and threads share one large file.
constexpr size_t kPieceBytes = size_t{1} << 18;

/// A document or a part of one; cut where a tokenizer's words end.
struct Piece {
  std::string text;
  bool begins = false, ends = false;               // first and last piece of its document
  bool chat = false;                               // a rendered conversation, always whole
  std::vector<std::pair<size_t, size_t>> targets;  // chat: byte ranges of `text` in the loss
  std::string where;                               // "file" or "file:line", for messages
};

/// Counts of a reader that are not in its pieces.
struct ReaderCounts {
  Repairs repairs;
  int64_t silent_chats = 0;  // left out: no assistant message, so nothing to learn
};

/// The files that `patterns` name, in order and each once: a path of a file (of any name), a folder (every file below
/// it, sorted, whose name ends in .txt, .text, .md, .jsonl or .ndjson, also with .gz or .zst), or a glob pattern (what
/// it matches). Throws Error naming the pattern that matches no file.
std::vector<fs::path> find_data_files(std::span<const std::string> patterns);

/// Reads the documents of one file. Names that end in .jsonl or .ndjson (before .gz or .zst) hold one record per line,
/// {"text": ...} or {"messages": [...]}; any other file is plain text, one document.
class DocumentReader {
 public:
  /// `split_at`: in plain text a line equal to this ends a document and belongs to none ("" splits at empty lines).
  DocumentReader(const fs::path& file, const std::optional<std::string>& split_at);

  /// The next piece; false at the end of the file. Empty documents are left out. Throws Error naming file and line.
  bool next(Piece& piece);

  const ReaderCounts& counts() const { return counts_; }
  /// Bytes of the file read so far, before decompression.
  int64_t file_bytes() const { return reader_->file_bytes(); }

 private:
  bool next_of_text(Piece& piece);
  bool next_of_lines(Piece& piece);
  bool fill();
  bool find_marker();
  std::optional<std::string> next_line();
  void read_record(const std::string& line, Piece& piece);

  std::string name_;
  std::unique_ptr<ByteReader> reader_;
  TextCleaner cleaner_;
  Repairs record_repairs_;  // in the strings of JSONL records
  ReaderCounts counts_;
  bool lines_ = false;  // JSONL
  std::optional<std::string> split_at_;
  std::vector<char> block_;
  std::string buffer_;  // clean text; what is before pos_ is used up
  size_t pos_ = 0;
  size_t scan_ = 0;        // text before it holds no unused marker or end of line
  bool mid_line_ = false;  // scan_ is not at the start of a line
  size_t marker_end_ = 0;  // after find_marker(): where the next document begins; the marker's line begins at scan_
  bool first_block_ = true;
  bool at_end_ = false;       // of the file
  bool in_document_ = false;  // a piece without `ends` was returned
  std::string record_;        // the text of a JSONL record
  size_t record_pos_ = 0;     // what is before was returned
  int64_t line_ = 0;
};

}  // namespace sluice
