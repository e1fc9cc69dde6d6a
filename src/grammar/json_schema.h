// JSON schemas -> rules of an automaton. docs/json-schema.md says what is supported.
#pragma once
#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/char_dfa.h"
#include "grammar/json_text.h"
#include "grammar/schema_source.h"

namespace sluice {

/// Compiles one document. Different parts of it that say the same share a rule, so that recursion ends.
class SchemaCompiler {
 public:
  /// `net` and `json` must outlive it. `where`: for messages.
  /// `work`, which must outlive it too, grows by what is done.
  SchemaCompiler(AutomatonBuilder& net, JsonText& json, std::string_view text, const std::string& where, size_t& work);

  /// The rule of the whole document. Throws Error "where: path: ...".
  Rule compile();

 private:
  struct Task {
    Rule rule;
    OrderedJson schema;
    std::string path;
  };
  struct ObjectPlan;

  Rule rule_of(const OrderedJson& schema, const std::string& path);
  void build(const Task& task);
  void build_alternatives(const Task& task, const char* keyword);
  void build_enum(const Task& task);
  void build_type(const std::string& type, const Task& task);

  std::vector<std::string> types_of(const OrderedJson& schema, const std::string& path) const;
  uint32_t count_of(const OrderedJson& schema, const char* key, uint32_t otherwise, const std::string& path) const;

  void build_string(const Task& task);
  void build_number(const Task& task, bool is_integer);
  void build_array(const Task& task);
  void build_object(const Task& task);
  ObjectPlan plan_object(const Task& task);
  void build_members(const ObjectPlan& plan, uint32_t first, uint32_t close);

  AutomatonBuilder& net_;
  JsonText& json_;
  std::string where_;
  SchemaSource source_;
  std::unordered_map<std::string, Rule> rules_;  // by the text of the schema
  std::deque<Task> tasks_;
  std::unordered_map<std::string, CharDfa> patterns_;
  size_t& work_;
};

}  // namespace sluice
