// A chat template as a tree; how deep it is, is bounded, so that what walks it may recurse.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat/jinja_value.h"

namespace sluice::jinja {

struct Filter;
struct Test;
struct Method;
struct Function;
struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

/// Arguments of a call; named ones come after the others.
struct ArgumentList {
  std::vector<ExpressionPtr> values;
  std::vector<std::string> names;  // of the last values
};

struct Expression {
  enum class Kind {
    literal,      // value
    name,         // name
    list,         // operands
    mapping,      // operands: key, value, ...
    attribute,    // operands[0].name
    item,         // operands[0][operands[1]]
    slice,        // operands[0][operands[1]:operands[2]:operands[3]], those left out are none
    filter,       // operands[0] | filter(arguments)
    test,         // operands[0] is test(arguments)
    method,       // operands[0].method(arguments)
    function,     // function(arguments)
    macro_call,   // name(arguments)
    conditional,  // operands[0] if operands[1] else operands[2]
    negation,     // not operands[0]
    minus,        // -operands[0]
    both,         // operands[0] and operands[1]
    either,       // operands[0] or operands[1]
    binary,       // operands[0] name operands[1], `name` one of == != < > <= >= in + - * / // % ~
  } kind;
  int line;
  int depth = 1;  // of the tree from here on
  std::string name{};
  Value value{};
  std::vector<ExpressionPtr> operands{};
  ArgumentList arguments{};
  const Filter* filter = nullptr;
  const Test* test = nullptr;
  const Method* method = nullptr;
  const Function* function = nullptr;
};

struct Statement;
using Statements = std::vector<Statement>;

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // may be null
};

struct Statement {
  enum class Kind {
    text,          // name: the text itself
    print,         // expression
    condition,     // branches; the last one without an expression is `else`
    loop,          // for targets in expression if filter: branches[0]; branches[1] where nothing was left
    assign,        // set targets = expression
    assign_field,  // set targets[0].targets[1] = expression
    capture,       // set targets[0]: what branches[0] prints
    macro,         // targets[0], parameters, branches[0]
    leave,         // break
    next,          // continue
    block,         // branches[0] alone
  } kind;
  struct Branch {
    ExpressionPtr condition;  // null: always
    Statements body;
  };
  int line;
  std::string name{};
  std::vector<std::string> targets{};
  std::vector<Parameter> parameters{};
  ExpressionPtr expression{}, filter{};
  std::vector<Branch> branches{};
};

}  // namespace sluice::jinja
