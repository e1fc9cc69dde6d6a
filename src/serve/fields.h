// Fields of a request's body, with their ranges.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "serve/json_text.h"

namespace sluice {

/// The body of a request. Throws ApiError (400) when it is not a JSON object in valid UTF-8, is nested too deeply or
/// has a key twice.
OrderedJson parse_body(std::string_view body);

/// Reads the fields of one object. A field that is null counts as absent. Each function throws ApiError (400) that
/// names the field, what was expected and what was found.
class Fields {
 public:
  /// `object` must outlive this. `path`: its own name, for messages; empty for the body itself.
  explicit Fields(const OrderedJson& object, std::string path = {});

  /// nullptr where it is absent.
  const OrderedJson* find(const char* name) const;
  std::optional<double> number(const char* name, double low, double high) const;
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high) const;
  std::optional<bool> boolean(const char* name) const;
  std::optional<std::string> text(const char* name) const;
  /// The fields of an object in a field.
  std::optional<Fields> object(const char* name) const;

  /// "stream_options.include_usage", as messages name a field.
  std::string name_of(const char* name) const;
  const OrderedJson& json() const { return object_; }

 private:
  [[noreturn]] void refuse(const char* name, const std::string& expected, const OrderedJson& found) const;

  const OrderedJson& object_;
  std::string path_;
};

}  // namespace sluice
