// Keys that clients show: `Authorization: Bearer KEY`.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Whether `header` shows one of `keys`. Takes the same time wherever a wrong key differs from a right one.
bool has_api_key(std::string_view header, const std::vector<std::string>& keys);

/// The keys of a file: one a line, white space around them ignored, lines that begin with # left out. Throws Error when
/// there is none, or one with other than printable ASCII characters.
std::vector<std::string> parse_api_keys(std::string_view text, const std::string& where);

}  // namespace sluice
