// A small JSON schema validator, written independently of src/grammar/.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace sluice {

/// Whether `value` is valid for `schema`, a part of the document `root`. oneOf is read as anyOf.
bool is_valid(const nlohmann::json& value, const nlohmann::json& schema, const nlohmann::json& root);

}  // namespace sluice
