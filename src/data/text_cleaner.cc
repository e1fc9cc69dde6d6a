#include "data/text_cleaner.h"

#include <cstddef>

namespace sluice {
namespace {

/// The sequence at the start of text that begins with a byte >= 0x80.
struct Sequence {
  enum Kind { valid, bad, incomplete } kind;
  size_t length;  // bytes of it; of a bad one those that a single U+FFFD replaces
};

Sequence utf8_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0xc2 || lead > 0xf4) return {Sequence::bad, 1};
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and what is beyond U+10FFFF.
  unsigned low = 0x80, high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Sequence::incomplete, i};
    if (byte(i) < low || byte(i) > high) return {Sequence::bad, i};
    low = 0x80;
    high = 0xbf;
  }
  return {Sequence::valid, length};
}

}  // namespace

void Repairs::add(const Repairs& other) {
  bad_utf8 += other.bad_utf8;
  crlf += other.crlf;
  byte_order_marks += other.byte_order_marks;
}

void TextCleaner::clean(std::string_view bytes, bool final, std::string& out) {
  std::string joined;
  if (!waiting_.empty()) {
    joined = waiting_.append(bytes);
    waiting_.clear();
    bytes = joined;
  }
  size_t i = 0, copied = 0;  // bytes before `copied` are in `out`
  const auto skip = [&](size_t length) {
    out.append(bytes, copied, i - copied);
    i += length;
    copied = i;
  };
  while (i < bytes.size()) {
    const auto c = static_cast<unsigned char>(bytes[i]);
    if (c < 0x80 && c != '\r') {
      ++i;
    } else if (c == '\r') {
      if (i + 1 == bytes.size() && !final) break;
      if (i + 1 < bytes.size() && bytes[i + 1] == '\n') {
        ++repairs_.crlf;
        skip(1);
      } else {
        ++i;
      }
    } else {
      const Sequence sequence = utf8_sequence(bytes.substr(i));
      if (sequence.kind == Sequence::incomplete && !final) break;
      if (sequence.kind != Sequence::valid) {
        ++repairs_.bad_utf8;
        skip(sequence.length);
        out += "\xef\xbf\xbd";
      } else if (at_start_ && bytes.substr(i, 3) == "\xef\xbb\xbf") {
        ++repairs_.byte_order_marks;
        skip(3);
      } else {
        i += sequence.length;
      }
    }
    at_start_ = false;
  }
  waiting_ = bytes.substr(i);
  skip(0);
}

}  // namespace sluice
