#include "chat/jinja_interpreter.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "chat/jinja_builtins.h"
#include "chat/jinja_operators.h"

namespace sluice::jinja {
namespace {

/// How a list of statements ended.
enum class Flow : uint8_t { normal, leave, next };

class Interpreter {
 public:
  Interpreter(const Value& context, Meter& meter) : context_(context), meter_(meter) { scopes_.emplace_back(); }

  std::string run(const Tree& tree) {
    execute(tree.statements);
    return std::move(out_);
  }

 private:
  using Scope = std::vector<std::pair<std::string_view, Value>>;  // names are those of the tree

  /// One level of recursion.
  class Level {
   public:
    explicit Level(Interpreter& i) : i_(i) {
      if (++i.level_ > kMaxEvaluationDepth) i.meter_.refuse("macros call each other too deeply");
    }
    ~Level() { --i_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Interpreter& i_;
  };

  // --- variables ---

  static Value* find(Scope& scope, std::string_view name) {
    const auto it = std::find_if(scope.begin(), scope.end(), [&](const auto& v) { return v.first == name; });
    return it == scope.end() ? nullptr : &it->second;
  }

  /// From the innermost scope to that of the macro, then what the template has set outside of macros.
  Value look_up(std::string_view name) {
    for (size_t i = scopes_.size(); i-- > base_;)
      if (const Value* value = find(scopes_[i], name)) return *value;
    if (const Value* value = find(scopes_[0], name)) return *value;
    return field_of(meter_, context_, name);
  }

  void assign(std::string_view name, Value value) {
    if (Value* old = find(scopes_.back(), name)) {
      *old = std::move(value);
    } else {
      scopes_.back().emplace_back(name, std::move(value));
    }
  }

  /// One value to one name, or the items of a list to several.
  void unpack(const std::vector<std::string>& targets, const Value& value) {
    if (targets.size() == 1) return assign(targets[0], value);
    if (!value.items() || value.items()->size() != targets.size())
      meter_.refuse("expected a list of {} values, found {}", targets.size(), value.kind());
    const std::vector<Value> items = *value.items();
    for (size_t i = 0; i < targets.size(); ++i) assign(targets[i], items[i]);
  }

  // --- statements ---

  Flow execute(const Statements& statements) {
    const Level level(*this);
    for (const Statement& s : statements) {
      meter_.line = s.line;
      meter_.step();
      if (const Flow flow = execute(s); flow != Flow::normal) return flow;
    }
    return Flow::normal;
  }

  Flow execute(const Statement& s) {
    using Kind = Statement::Kind;
    switch (s.kind) {
      case Kind::text:
        meter_.grow(s.name.size());
        out_ += s.name;
        break;
      case Kind::print: {
        const Value value = evaluate(*s.expression);
        append_text(meter_, out_, value);
        break;
      }
      case Kind::condition:
        for (const Statement::Branch& branch : s.branches)
          if (!branch.condition || evaluate(*branch.condition).truth()) return execute(branch.body);
        break;
      case Kind::loop:
        run_loop(s);
        break;
      case Kind::assign:
        unpack(s.targets, evaluate(*s.expression));
        break;
      case Kind::assign_field:
        assign_field(s);
        break;
      case Kind::capture:
        assign(s.targets[0], Value::string(captured([&] { execute_inside(s.branches[0].body); })));
        break;
      case Kind::macro:
        macros_[s.targets[0]] = &s;
        break;
      case Kind::leave:
        return Flow::leave;
      case Kind::next:
        return Flow::next;
      case Kind::block:
        return execute(s.branches[0].body);
    }
    return Flow::normal;
  }

  Flow execute_inside(const Statements& statements) {
    scopes_.emplace_back();
    const Flow flow = execute(statements);
    scopes_.pop_back();
    return flow;
  }

  /// What `body` prints.
  template <class F>
  std::string captured(F&& body) {
    std::string outer = std::exchange(out_, {});
    body();
    return std::exchange(out_, std::move(outer));
  }

  void run_loop(const Statement& s) {
    std::vector<Value> all = elements(meter_, evaluate(*s.expression), "for");
    scopes_.emplace_back();
    if (s.filter)
      std::erase_if(all, [&](const Value& item) {
        meter_.step();
        unpack(s.targets, item);
        return !evaluate(*s.filter).truth();
      });
    const auto loop = std::make_shared<Loop>(Loop{std::make_shared<const Array>(Array{std::move(all), 0}), 0});
    for (const Value& item : loop->all->items) {
      meter_.step();
      scopes_.back().clear();
      assign("loop", Value::Data(loop));
      unpack(s.targets, item);
      if (execute(s.branches[0].body) == Flow::leave) break;
      ++loop->index0;
    }
    scopes_.pop_back();
    if (loop->all->items.empty() && s.branches.size() > 1) execute_inside(s.branches[1].body);
  }

  void assign_field(const Statement& s) {
    Value value = evaluate(*s.expression);
    const Value target = look_up(s.targets[0]);
    const auto* space = target.get<std::shared_ptr<Namespace>>();
    if (!space) meter_.refuse("{} is not a namespace: its attributes cannot be set", s.targets[0]);
    if (value.get<std::shared_ptr<Namespace>>() || value.get<std::shared_ptr<Loop>>())
      meter_.refuse("{} cannot be part of another value", value.kind());
    meter_.step((*space)->fields.size());
    if (Value* old = (*space)->find(s.targets[1])) {
      *old = std::move(value);
    } else {
      (*space)->fields.emplace_back(s.targets[1], std::move(value));
    }
  }

  // --- expressions ---

  Value evaluate(const Expression& e) {
    const Level level(*this);
    meter_.line = e.line;
    meter_.step();
    using Kind = Expression::Kind;
    switch (e.kind) {
      case Kind::literal:
        return e.value;
      case Kind::name:
        return look_up(e.name);
      case Kind::conditional:
        return evaluate(*e.operands[evaluate(*e.operands[1]).truth() ? 0 : 2]);
      case Kind::negation:
        return Value::Data(!evaluate(*e.operands[0]).truth());
      case Kind::both:
      case Kind::either: {
        Value left = evaluate(*e.operands[0]);
        return left.truth() == (e.kind == Kind::either) ? left : evaluate(*e.operands[1]);
      }
      case Kind::macro_call:
        return call_macro(e);
      default:
        return apply(e, evaluate_all(e.operands));
    }
  }

  std::vector<Value> evaluate_all(const std::vector<ExpressionPtr>& expressions) {
    std::vector<Value> values;
    values.reserve(expressions.size());
    for (const ExpressionPtr& e : expressions) values.push_back(evaluate(*e));
    return values;
  }

  Arguments evaluate_arguments(const ArgumentList& list) {
    Arguments arguments;
    arguments.values = evaluate_all(list.values);
    const size_t positional = list.values.size() - list.names.size();
    for (size_t i = 0; i < list.names.size(); ++i)
      arguments.named.emplace_back(list.names[i], std::move(arguments.values[positional + i]));
    arguments.values.resize(positional);
    return arguments;
  }

  /// What needs the values of all operands.
  Value apply(const Expression& e, std::vector<Value> v) {
    using Kind = Expression::Kind;
    Arguments arguments = evaluate_arguments(e.arguments);
    meter_.line = e.line;
    const Call call{meter_, e.name, arguments};
    switch (e.kind) {
      case Kind::list:
        return make_array(meter_, std::move(v));
      case Kind::mapping:
        return make_mapping(v);
      case Kind::attribute:
        return field_of(meter_, v[0], e.name);
      case Kind::item:
        return item_of(meter_, v[0], v[1]);
      case Kind::slice:
        return apply_slice(meter_, v[0], {v[1], v[2], v[3]});
      case Kind::filter:
        return e.filter->apply(call, v[0]);
      case Kind::test:
        return Value::Data(e.test->apply(call, v[0]));
      case Kind::method:
        return e.method->apply(call, v[0]);
      case Kind::function:
        return e.function->apply(call);
      case Kind::minus:
        return apply_minus(meter_, v[0]);
      default:
        return apply_binary(meter_, e.name, v[0], v[1]);
    }
  }

  Value make_mapping(const std::vector<Value>& v) {
    Fields fields;
    for (size_t i = 0; i + 1 < v.size(); i += 2)
      set_field(meter_, fields, std::make_shared<const std::string>(need_text(meter_, v[i], "a mapping's key")),
                v[i + 1]);
    return make_object(meter_, std::move(fields));
  }

  /// A macro sees its parameters and what the template has set outside of macros and loops.
  Value call_macro(const Expression& e) {
    const auto it = macros_.find(e.name);
    if (it == macros_.end()) meter_.refuse("the macro {} is not defined yet", e.name);
    const Statement& macro = *it->second;
    Arguments arguments = evaluate_arguments(e.arguments);
    meter_.line = e.line;
    if (arguments.values.size() > macro.parameters.size())
      meter_.refuse("{}: expected at most {} arguments", e.name, macro.parameters.size());
    for (const auto& named : arguments.named)
      if (std::none_of(macro.parameters.begin(), macro.parameters.end(),
                       [&](const Parameter& p) { return p.name == named.first; }))
        meter_.refuse("{}: unknown argument {}", e.name, named.first);
    const size_t outer = std::exchange(base_, scopes_.size());
    scopes_.emplace_back();
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const Parameter& p = macro.parameters[i];
      Value value = arguments.at(i, p.name, Value::undefined(p.name));
      if (value.is_undefined() && p.fallback) value = evaluate(*p.fallback);
      assign(p.name, std::move(value));
    }
    std::string text = captured([&] { execute(macro.branches[0].body); });
    scopes_.pop_back();
    base_ = outer;
    return Value::string(std::move(text));
  }

  const Value& context_;
  Meter& meter_;
  std::vector<Scope> scopes_;
  size_t base_ = 0;  // the outermost scope of the macro that is being called
  std::map<std::string_view, const Statement*> macros_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

std::string render(const Tree& tree, const Value& context, Meter& meter) {
  return Interpreter(context, meter).run(tree);
}

}  // namespace sluice::jinja
