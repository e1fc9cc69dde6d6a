#include <algorithm>

#include "grammar/json_schema.h"

namespace sluice {
namespace {

// Each of them may come next; all are followed until their names differ (see StackDfa::kMaxStacks).
constexpr size_t kMaxOptionalInARow = 100;

}  // namespace

/// The members of an object in their order.
struct SchemaCompiler::ObjectPlan {
  struct Member {
    std::string name;
    Rule value;
    bool required = false;
  };
  std::vector<Member> members;
  bool open = true;  // others may follow them
  Rule others;

  /// Whether the object may end when only members from `i` on are missing.
  bool may_end(size_t i) const {
    return std::none_of(members.begin() + static_cast<ptrdiff_t>(i), members.end(),
                        [](const Member& m) { return m.required; });
  }
};

SchemaCompiler::ObjectPlan SchemaCompiler::plan_object(const Task& task) {
  const OrderedJson properties = task.schema.value("properties", OrderedJson::object());
  const OrderedJson required = task.schema.value("required", OrderedJson::array());
  const OrderedJson additional = task.schema.value("additionalProperties", OrderedJson(true));
  const std::string path = schema_path(task.path, "properties"),
                    others_path = schema_path(task.path, "additionalProperties");
  if (!properties.is_object()) source_.refuse(path, "expected an object of schemas");
  if (!required.is_array()) source_.refuse(schema_path(task.path, "required"), "expected a list of names");
  ObjectPlan plan;
  plan.open = additional != false;
  if (plan.open) plan.others = rule_of(additional, others_path);
  for (const auto& [name, schema] : properties.items())
    plan.members.push_back({name, rule_of(schema, schema_path(path, name)), false});
  source_.charge_search(required.size(), plan.members.size() + required.size(), path);
  for (const OrderedJson& name : required) {
    if (!name.is_string()) source_.refuse(schema_path(task.path, "required"), "expected a list of names");
    const auto is_named = [&](const ObjectPlan::Member& m) { return m.name == name.get_ref<const std::string&>(); };
    auto member = std::find_if(plan.members.begin(), plan.members.end(), is_named);
    if (member == plan.members.end())
      member = plan.members.insert(member, {name, rule_of(additional, others_path), false});
    member->required = true;
  }
  size_t row = 0;
  for (const ObjectPlan::Member& member : plan.members) {
    row = member.required ? 0 : row + 1;
    if (row > kMaxOptionalInARow) source_.refuse(path, "more than {} optional ones in a row", kMaxOptionalInARow);
  }
  return plan;
}

void SchemaCompiler::build_object(const Task& task) {
  const ObjectPlan plan = plan_object(task);
  const uint32_t open = net_.add_state(), inside = net_.add_state();
  const uint32_t first = net_.add_state(), close = net_.add_state();
  net_.byte(task.rule.start, '{', open);
  json_.space(open, inside);
  net_.empty(inside, first);
  if (plan.may_end(0)) net_.empty(inside, close);
  net_.byte(close, '}', task.rule.end);
  build_members(plan, first, close);
}

/// From `first`, where a member begins, to `close`, where there is nothing but the brace.
void SchemaCompiler::build_members(const ObjectPlan& plan, uint32_t first, uint32_t close) {
  std::vector<std::string> names;
  uint32_t key = first;  // of member i, or of one behind it when that is optional
  for (size_t i = 0; i < plan.members.size(); ++i) {
    const ObjectPlan::Member& member = plan.members[i];
    const uint32_t value = net_.add_state(), after = net_.add_state(), next_key = net_.add_state();
    json_.key(key, OrderedJson(member.name).dump(), value);
    net_.call(value, member.value, after);
    const uint32_t comma = net_.add_state();
    net_.byte(after, ',', comma);
    json_.space(comma, next_key);
    if (plan.may_end(i + 1)) json_.space(after, close);
    if (!member.required) net_.empty(key, next_key);
    key = next_key;
    names.push_back(member.name);
  }
  if (!plan.open) return;
  const uint32_t colon = net_.add_state(), after_colon = net_.add_state(), value = net_.add_state();
  const uint32_t after = net_.add_state(), comma = net_.add_state();
  json_.other_key(key, names, colon);
  net_.byte(colon, ':', after_colon);
  json_.one_space(after_colon, value);
  net_.call(value, plan.others, after);
  net_.byte(after, ',', comma);
  json_.space(comma, key);
  json_.space(after, close);
}

}  // namespace sluice
