// Parses the expressions of a chat template; the tags around them are jinja_parser.cc's business.
#pragma once
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "chat/jinja_ast.h"
#include "chat/jinja_lexer.h"

namespace sluice::jinja {

struct Signature;

/// Reads tokens from left to right. Every function throws Error "<name>:<line>: ...".
class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, const std::string& name) : tokens_(std::move(tokens)), name_(name) {}

  /// An expression, also one of several parts with commas, which is a list.
  ExpressionPtr parse_list();
  ExpressionPtr parse_expression();
  /// Without `x if y else z`: what `for` goes through, whose own `if` follows.
  ExpressionPtr parse_unconditional() { return parse_either(); }

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token take() { return tokens_[std::min(at_++, tokens_.size() - 1)]; }
  bool is_symbol(std::string_view text, size_t ahead = 0) const;
  bool is_word(std::string_view text, size_t ahead = 0) const;
  /// Takes it if it is there.
  bool take_symbol(std::string_view text);
  bool take_word(std::string_view text);
  void expect_symbol(std::string_view text);
  /// A name that can be a variable.
  std::string expect_name(std::string_view what);

  /// How many levels are open; Error beyond kMaxTreeDepth.
  class Level {
   public:
    explicit Level(ExpressionParser& parser) : parser_(parser) {
      if (++parser.level_ > kMaxTreeDepth) parser.refuse("the template is nested deeper than {}", kMaxTreeDepth);
    }
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}:{}: {}", name_, peek().line, fmt::format(format, std::forward<Args>(args)...));
  }

  /// Names that are read, and names that are called though they are no function: macros, if they are defined.
  std::set<std::string, std::less<>> names, called;

 private:
  ExpressionPtr parse_either();
  ExpressionPtr parse_both();
  ExpressionPtr parse_not();
  ExpressionPtr parse_comparison();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_sign(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_parenthesis(int line);
  ExpressionPtr parse_mapping(int line);
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  ExpressionPtr parse_attribute(ExpressionPtr value);
  ExpressionPtr parse_call(ExpressionPtr callee);
  ExpressionPtr parse_filters(ExpressionPtr value);
  ExpressionPtr parse_filter(ExpressionPtr value);
  ExpressionPtr parse_test(ExpressionPtr value);
  ArgumentList parse_arguments();
  void check_arguments(const Expression& call, std::string_view kind, const Signature& signature);
  ExpressionPtr make(Expression::Kind kind, int line, std::vector<ExpressionPtr> operands = {}, std::string name = {});
  ExpressionPtr seal(ExpressionPtr expression) const;

  std::vector<Token> tokens_;
  const std::string& name_;
  size_t at_ = 0;
  int level_ = 0;
};

}  // namespace sluice::jinja
