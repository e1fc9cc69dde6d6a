// A JSON schema as it was written: its keywords, references and the merging of schemas that all have to hold.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "formats/json.h"

namespace sluice {

/// Reads `text` strictly, in the order of its properties. Throws Error "where: ...".
OrderedJson parse_schema(std::string_view text, const std::string& where);

/// The path of a part of a schema, for messages, on one line and of limited length.
std::string schema_path(const std::string& path, std::string_view key);
std::string schema_path(const std::string& path, std::string_view key, size_t index);

/// A document of schemas. Everything throws Error "where: path: ...".
class SchemaSource {
 public:
  /// `work`, which must outlive it, grows by what is done, up to kMaxCompileWork.
  SchemaSource(OrderedJson root, std::string where, size_t& work)
      : root_(std::move(root)), where_(std::move(where)), work_(work) {}

  const OrderedJson& root() const { return root_; }

  /// The schema that `schema` stands for when all it does is to refer to one, else itself; `path` becomes its path.
  const OrderedJson& follow(const OrderedJson& schema, std::string& path);

  /// An equal schema without annotations, $ref, allOf, const, nullable and boolean bounds at its top; true or false, or
  /// an object that is not empty.
  OrderedJson expand(const OrderedJson& schema, const std::string& path);

  /// Counts `schema` towards how much work the document may make.
  void charge(const OrderedJson& schema, const std::string& path);
  /// Counts that each of `a` things is looked for among `b`.
  void charge_search(size_t a, size_t b, const std::string& path) { charge(a * b / 16, path); }

  template <class... Args>
  [[noreturn]] void refuse(const std::string& path, fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: {}{}", where_, path.empty() ? "" : path + ": ", fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  OrderedJson expand(const OrderedJson& schema, const std::string& path, int depth);
  OrderedJson own_keywords(const OrderedJson& schema, const std::string& path) const;
  const OrderedJson& target(const OrderedJson& reference, std::string& path);
  void charge(size_t values, const std::string& path);
  OrderedJson merge(const OrderedJson& a, const OrderedJson& b, const std::string& path);
  void merge_objects(OrderedJson& out, const OrderedJson& b) const;
  void merge_arrays(OrderedJson& out, const OrderedJson& b, const std::string& path) const;
  OrderedJson merge_keyword(const std::string& key, const OrderedJson& a, const OrderedJson& b,
                            const std::string& path) const;

  OrderedJson root_;
  std::string where_;
  size_t& work_;
};

}  // namespace sluice
