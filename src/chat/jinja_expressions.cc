#include "chat/jinja_expressions.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "chat/jinja_builtins.h"

namespace sluice::jinja {
namespace {

using Kind = Expression::Kind;

constexpr std::array<std::string_view, 8> kWords = {"and", "or", "not", "in", "is", "if", "else", "recursive"};

std::string shown(const Token& token) {
  using T = Token::Kind;
  if (token.kind == T::tag_end || token.kind == T::print_end) return "the end of the tag";
  if (token.kind == T::end || token.kind == T::text) return "the end of the template";
  return fmt::format("{:?}", token.text.substr(0, 40));
}

template <class... P>
std::vector<ExpressionPtr> list_of(P... parts) {
  std::vector<ExpressionPtr> list;
  (list.push_back(std::move(parts)), ...);
  return list;
}

}  // namespace

bool ExpressionParser::is_symbol(std::string_view text, size_t ahead) const {
  return peek(ahead).kind == Token::Kind::symbol && peek(ahead).text == text;
}

bool ExpressionParser::is_word(std::string_view text, size_t ahead) const {
  return peek(ahead).kind == Token::Kind::name && peek(ahead).text == text;
}

bool ExpressionParser::take_symbol(std::string_view text) {
  const bool found = is_symbol(text);
  at_ += found;
  return found;
}

bool ExpressionParser::take_word(std::string_view text) {
  const bool found = is_word(text);
  at_ += found;
  return found;
}

void ExpressionParser::expect_symbol(std::string_view text) {
  if (!take_symbol(text)) refuse("expected {:?}, found {}", text, shown(peek()));
}

std::string ExpressionParser::expect_name(std::string_view what) {
  const std::string& text = peek().text;
  if (peek().kind != Token::Kind::name || std::find(kWords.begin(), kWords.end(), text) != kWords.end())
    refuse("expected {}, found {}", what, shown(peek()));
  return take().text;
}

/// Sets the depth, from which walkers know that they may recurse.
ExpressionPtr ExpressionParser::seal(ExpressionPtr e) const {
  for (const auto* list : {&e->operands, &e->arguments.values})
    for (const ExpressionPtr& operand : *list)
      if (operand) e->depth = std::max(e->depth, operand->depth + 1);
  if (e->depth > kMaxTreeDepth) refuse("an expression is nested deeper than {}", kMaxTreeDepth);
  return e;
}

ExpressionPtr ExpressionParser::make(Kind kind, int line, std::vector<ExpressionPtr> operands, std::string name) {
  auto e = std::make_unique<Expression>(Expression{kind, line});
  e->operands = std::move(operands);
  e->name = std::move(name);
  return seal(std::move(e));
}

ExpressionPtr ExpressionParser::parse_list() {
  const int line = peek().line;
  ExpressionPtr first = parse_expression();
  if (!is_symbol(",")) return first;
  std::vector<ExpressionPtr> items = list_of(std::move(first));
  while (take_symbol(","))
    if (peek().kind != Token::Kind::tag_end && peek().kind != Token::Kind::print_end)
      items.push_back(parse_expression());
  return make(Kind::list, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_expression() {
  const Level level(*this);
  ExpressionPtr value = parse_either();
  while (is_word("if")) {
    const int line = take().line;
    ExpressionPtr condition = parse_either();
    ExpressionPtr otherwise;
    if (take_word("else")) {
      otherwise = parse_expression();
    } else {
      otherwise = make(Kind::literal, line);
      otherwise->value = Value::undefined("the inline if without else");
    }
    value = make(Kind::conditional, line, list_of(std::move(value), std::move(condition), std::move(otherwise)));
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_either() {
  ExpressionPtr left = parse_both();
  while (is_word("or")) {
    const int line = take().line;
    left = make(Kind::either, line, list_of(std::move(left), parse_both()));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_both() {
  ExpressionPtr left = parse_not();
  while (is_word("and")) {
    const int line = take().line;
    left = make(Kind::both, line, list_of(std::move(left), parse_not()));
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!is_word("not")) return parse_comparison();
  const Level level(*this);
  const int line = take().line;
  return make(Kind::negation, line, list_of(parse_not()));
}

ExpressionPtr ExpressionParser::parse_comparison() {
  static constexpr std::array<std::string_view, 6> kSymbols = {"==", "!=", "<=", ">=", "<", ">"};
  ExpressionPtr left = parse_sum();
  for (int count = 0;; ++count) {
    const int line = peek().line;
    const bool is_not = is_word("not") && is_word("in", 1);
    const bool is_comparison =
        is_not || is_word("in") ||
        std::any_of(kSymbols.begin(), kSymbols.end(), [&](std::string_view s) { return is_symbol(s); });
    if (!is_comparison) return left;
    if (count == 1) refuse("a chain of comparisons is not supported");
    if (is_not) take();
    const std::string name = take().text;
    left = make(Kind::binary, line, list_of(std::move(left), parse_sum()), name);
    if (is_not) left = make(Kind::negation, line, list_of(std::move(left)));
  }
}

ExpressionPtr ExpressionParser::parse_sum() {
  ExpressionPtr left = parse_concatenation();
  while (is_symbol("+") || is_symbol("-")) {
    const Token op = take();
    left = make(Kind::binary, op.line, list_of(std::move(left), parse_concatenation()), op.text);
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concatenation() {
  ExpressionPtr left = parse_product();
  while (is_symbol("~")) {
    const Token op = take();
    left = make(Kind::binary, op.line, list_of(std::move(left), parse_product()), op.text);
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_product() {
  ExpressionPtr left = parse_sign(true);
  while (is_symbol("*") || is_symbol("/") || is_symbol("//") || is_symbol("%")) {
    const Token op = take();
    left = make(Kind::binary, op.line, list_of(std::move(left), parse_sign(true)), op.text);
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_sign(bool with_filters) {
  ExpressionPtr value;
  if (is_symbol("-") || is_symbol("+")) {
    const Level level(*this);
    const Token sign = take();
    value = parse_sign(false);
    if (sign.text == "-") value = make(Kind::minus, sign.line, list_of(std::move(value)));
  } else {
    value = parse_postfix(parse_primary());
  }
  return with_filters ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::parse_primary() {
  const Token token = peek();
  using T = Token::Kind;
  if (token.kind == T::symbol) {
    if (take_symbol("(")) return parse_parenthesis(token.line);
    if (take_symbol("{")) return parse_mapping(token.line);
    if (!take_symbol("[")) refuse("expected a value, found {}", shown(token));
    std::vector<ExpressionPtr> items;
    while (!take_symbol("]")) {
      items.push_back(parse_expression());
      if (!is_symbol("]")) expect_symbol(",");
    }
    return make(Kind::list, token.line, std::move(items));
  }
  ExpressionPtr literal = make(Kind::literal, token.line);
  if (token.kind == T::string) {
    literal->value = Value::string(take().text);
  } else if (token.kind == T::integer) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    if (error != std::errc() || end != token.text.data() + token.text.size())
      refuse("the number {} is too large", token.text);
    literal->value = Value::Data(value);
    take();
  } else if (token.kind == T::real) {
    double value = 0;
    std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    literal->value = Value::Data(value);
    take();
  } else if (take_word("true") || take_word("True")) {
    literal->value = Value::Data(true);
  } else if (take_word("false") || take_word("False")) {
    literal->value = Value::Data(false);
  } else if (!take_word("none") && !take_word("None")) {
    const std::string name = expect_name("a value");
    if (is_symbol("(")) return make(Kind::name, token.line, {}, name);  // parse_call() looks what it is
    names.insert(name);
    return make(Kind::name, token.line, {}, name);
  }
  return literal;
}

/// After "(": an expression, or a tuple, which is a list here.
ExpressionPtr ExpressionParser::parse_parenthesis(int line) {
  std::vector<ExpressionPtr> items;
  bool is_tuple = is_symbol(")");
  while (!take_symbol(")")) {
    items.push_back(parse_expression());
    if (take_symbol(",")) {
      is_tuple = true;
    } else if (!is_symbol(")")) {
      refuse("expected \")\", found {}", shown(peek()));
    }
  }
  return is_tuple ? make(Kind::list, line, std::move(items)) : std::move(items[0]);
}

/// After "{".
ExpressionPtr ExpressionParser::parse_mapping(int line) {
  std::vector<ExpressionPtr> items;
  while (!take_symbol("}")) {
    items.push_back(parse_expression());
    expect_symbol(":");
    items.push_back(parse_expression());
    if (!is_symbol("}")) expect_symbol(",");
  }
  return make(Kind::mapping, line, std::move(items));
}

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
  for (;;) {
    if (is_symbol(".")) {
      value = parse_attribute(std::move(value));
    } else if (is_symbol("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_symbol("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_attribute(ExpressionPtr value) {
  const int line = take().line;
  if (peek().kind == Token::Kind::integer) {
    ExpressionPtr index = parse_primary();
    return make(Kind::item, line, list_of(std::move(value), std::move(index)));
  }
  if (peek().kind != Token::Kind::name) refuse("expected an attribute's name, found {}", shown(peek()));
  return make(Kind::attribute, line, list_of(std::move(value)), take().text);
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr value) {
  const int line = take().line;
  std::array<ExpressionPtr, 3> part;
  size_t count = 0;
  bool is_slice = false;
  while (!is_symbol("]")) {
    if (take_symbol(":")) {
      is_slice = true;
      if (++count == 3) refuse("a slice has at most three parts");
    } else if (part[count]) {
      refuse("expected \"]\", found {}", shown(peek()));
    } else {
      part[count] = parse_expression();
    }
  }
  take();
  if (!is_slice && !part[0]) refuse("expected an index, found \"]\"");
  if (!is_slice) return make(Kind::item, line, list_of(std::move(value), std::move(part[0])));
  std::vector<ExpressionPtr> operands = list_of(std::move(value));
  for (ExpressionPtr& p : part) operands.push_back(p ? std::move(p) : make(Kind::literal, line));
  return make(Kind::slice, line, std::move(operands));
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  ExpressionPtr call = make(Kind::macro_call, callee->line);
  call->name = callee->name;
  call->arguments = parse_arguments();
  if (callee->kind == Kind::attribute) {
    call->kind = Kind::method;
    call->method = find_method(callee->name);
    if (!call->method) refuse("the method {} is not supported", callee->name);
    check_arguments(*call, "method", call->method->signature);
    call->operands = std::move(callee->operands);
  } else if (callee->kind != Kind::name) {
    refuse("only functions, macros and methods can be called");
  } else if (const Function* function = find_function(callee->name)) {
    call->kind = Kind::function;
    call->function = function;
    check_arguments(*call, "function", function->signature);
  } else {
    called.insert(callee->name);
  }
  return seal(std::move(call));
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value) {
  for (;;) {
    if (is_symbol("|")) {
      value = parse_filter(std::move(value));
    } else if (is_word("is")) {
      value = parse_test(std::move(value));
    } else if (is_symbol(".") || is_symbol("[")) {
      value = parse_postfix(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filter(ExpressionPtr value) {
  const int line = take().line;
  const std::string name = expect_name("a filter's name");
  const Filter* filter = find_filter(name);
  if (!filter) refuse("the filter {} is not supported", name);
  ExpressionPtr e = make(Kind::filter, line, list_of(std::move(value)), name);
  e->filter = filter;
  if (is_symbol("(")) e->arguments = parse_arguments();
  check_arguments(*e, "filter", filter->signature);
  return seal(std::move(e));
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  const int line = take().line;
  const bool is_not = take_word("not");
  const std::string name = is_word("in") ? take().text : expect_name("a test's name");
  const Test* test = find_test(name);
  if (!test) refuse("the test {} is not supported", name);
  ExpressionPtr e = make(Kind::test, line, list_of(std::move(value)), name);
  e->test = test;
  if (is_symbol("(")) {
    e->arguments = parse_arguments();
  } else if (test->signature.most > 0) {
    e->arguments.values.push_back(parse_postfix(parse_primary()));
  }
  check_arguments(*e, "test", test->signature);
  e = seal(std::move(e));
  return is_not ? make(Kind::negation, line, list_of(std::move(e))) : std::move(e);
}

ArgumentList ExpressionParser::parse_arguments() {
  expect_symbol("(");
  ArgumentList list;
  while (!take_symbol(")")) {
    if (is_symbol("*")) refuse("arguments with * are not supported");
    if (peek().kind == Token::Kind::name && is_symbol("=", 1)) {
      list.names.push_back(take().text);
      take();
    } else if (!list.names.empty()) {
      refuse("expected a named argument after the first one, found {}", shown(peek()));
    }
    list.values.push_back(parse_expression());
    if (!is_symbol(")")) expect_symbol(",");
  }
  return list;
}

void ExpressionParser::check_arguments(const Expression& call, std::string_view kind, const Signature& signature) {
  const size_t given = call.arguments.values.size();
  if (given < signature.least || given > signature.most)
    refuse("the {} {} with {} arguments is not supported", kind, call.name, given);
  const auto& known = signature.names;
  const bool any = !known.empty() && known[0] == kAnyName;
  for (const std::string& argument : call.arguments.names)
    if (!any && std::find(known.begin(), known.end(), argument) == known.end())
      refuse("the argument {} of the {} {} is not supported", argument, kind, call.name);
}

}  // namespace sluice::jinja
