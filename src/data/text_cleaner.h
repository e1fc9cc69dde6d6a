// Raw bytes -> clean UTF-8 text.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

/// What was repaired.
struct Repairs {
  int64_t bad_utf8 = 0;  // U+FFFD written, one for each maximal part of an ill-formed sequence
  int64_t crlf = 0;      // CRLF turned into LF
  int64_t byte_order_marks = 0;
  void add(const Repairs& other);
};

/// Streaming repair of one file: ill-formed UTF-8 becomes U+FFFD (as the Unicode standard, section 3.9, recommends),
/// CRLF becomes LF, a byte order mark at the start is dropped. The result does not depend on how the bytes are cut.
class TextCleaner {
 public:
  /// Appends the text of `bytes` to `out`; up to 3 bytes wait for the next call.
  void feed(std::string_view bytes, std::string& out) { clean(bytes, false, out); }
  /// Appends what is left at the end of the file.
  void finish(std::string& out) { clean({}, true, out); }
  const Repairs& repairs() const { return repairs_; }

 private:
  void clean(std::string_view bytes, bool final, std::string& out);

  std::string waiting_;
  bool at_start_ = true;
  Repairs repairs_;
};

}  // namespace sluice
