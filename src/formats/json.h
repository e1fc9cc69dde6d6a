// Strict JSON for the readers of files and requests. For this folder, chat and serve: it includes the JSON library.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sluice {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keeps the order of keys; its look-ups are linear

/// Parses one JSON document. Throws Error "where: ..." when it is malformed, larger than 64 MiB, nested deeper than 64,
/// has more than 8 Mi values, a duplicate key or anything but white space behind it. Parsing never recurses, and takes
/// time in proportion to the text (times the logarithm of an object's keys).
Json parse_json(std::string_view text, const std::string& where);

/// Parses a document that must be an object.
Json parse_json_object(std::string_view text, const std::string& where);

/// The same with the keys in their order, for values whose text goes to a model. At most 1 Mi values, which take up to
/// 100 bytes each, and no object with more than 4096 keys, since looking all of them up takes time of the square of
/// their number.
OrderedJson parse_ordered_json(std::string_view text, const std::string& where);

/// A value on one line of at most 60 characters, for "found ..." in messages.
std::string json_excerpt(const Json& value);
std::string json_excerpt(const OrderedJson& value);
std::string json_excerpt(const std::string& text);

/// An unsigned integer field of `object`. Throws Error "where: key: expected ..., found ..." for anything else.
uint64_t json_uint(const Json& object, const char* key, const std::string& where);

/// A string field of `object`, likewise.
std::string json_string(const Json& object, const char* key, const std::string& where);

/// An object field of `object`, likewise.
const Json& json_object(const Json& object, const char* key, const std::string& where);

/// The library's message without its internal prefix, on one line.
std::string json_message(const nlohmann::json::exception& e);

/// True for a relative path that stays in its folder: not empty, no control character, no part "..".
bool is_inner_path(std::string_view path);

}  // namespace sluice
