// The byte-level alphabet of GPT-2 (specification 7.2, stage 4) and the UTF-8 it is written in.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

/// Length in bytes (1 to 4) of the character at the start of `text`, or 0 where that is not valid UTF-8 (overlong
/// forms, surrogates and values over U+10FFFF are not). `text` is not empty.
size_t utf8_length(std::string_view text);

/// The character at the start of valid UTF-8.
char32_t utf8_decode(std::string_view text);

/// Length of the longest valid UTF-8 at the start of `text`.
size_t utf8_valid_prefix(std::string_view text);

/// The printable character that stands for `byte`, as UTF-8.
std::string_view byte_symbol(uint8_t byte);

/// The bytes that a vocabulary entry stands for, or nothing when a character of it is not of the alphabet.
std::optional<std::string> bytes_of_symbols(std::string_view token);

/// The n-th byte (0 to 255) in the order of the alphabet's code points: the order of ids in GPT-2's and V3's
/// vocabularies.
uint8_t byte_in_alphabet_order(int n);

}  // namespace sluice
