// Text as templates see it: characters, not bytes.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::jinja {

/// Bytes of the character that `text` (not empty) begins with; a byte that begins none counts as one.
size_t character_size(std::string_view text);
size_t count_characters(std::string_view text);
/// The byte at which the character at `index` begins, or the size of `text`.
size_t character_offset(std::string_view text, size_t index);
std::vector<std::string_view> characters(std::string_view text);

/// Without what is at the ends: white space, or the characters of `set` where it is not null.
std::string_view strip(std::string_view text, const std::string* set, bool left, bool right);
/// `text` with every `from` replaced, at most `count` times (all where negative).
std::string replace(std::string_view text, std::string_view from, std::string_view to, int64_t count);

/// ASCII letters only; others stay.
std::string upper(std::string_view text);
std::string lower(std::string_view text);

}  // namespace sluice::jinja
