#include "chat/jinja_parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "chat/jinja_builtins.h"
#include "chat/jinja_expressions.h"

namespace sluice::jinja {
namespace {

using Kind = Statement::Kind;

class Parser {
 public:
  Parser(std::string_view source, const std::string& name) : in_(tokenize(source, name), name) {}

  Tree run() {
    Tree tree;
    tree.statements = parse_until({}, "");
    for (const std::string& called : in_.called)
      if (!macros_.count(called)) in_.refuse("the function {} is not supported", called);
    tree.names = std::move(in_.names);
    return tree;
  }

 private:
  /// Statements up to a tag with one of these words, which stays; up to the end of the template where there are none.
  Statements parse_until(std::initializer_list<std::string_view> words, std::string_view opened) {
    const ExpressionParser::Level level(in_);
    Statements list;
    for (;;) {
      const Token token = in_.peek();
      if (token.kind == Token::Kind::end) {
        if (words.size()) in_.refuse("the tag {} is not closed", opened);
        return list;
      }
      if (token.kind == Token::Kind::tag_begin &&
          std::any_of(words.begin(), words.end(), [&](std::string_view w) { return in_.is_word(w, 1); }))
        return list;
      in_.take();
      if (token.kind == Token::Kind::text) {
        list.push_back(Statement{Kind::text, token.line});
        list.back().name = token.text;
      } else if (token.kind == Token::Kind::print_begin) {
        list.push_back(Statement{Kind::print, token.line});
        list.back().expression = in_.parse_list();
        expect_end(Token::Kind::print_end);
      } else {
        list.push_back(parse_tag(token.line));
      }
    }
  }

  void expect_end(Token::Kind kind = Token::Kind::tag_end) {
    if (in_.peek().kind != kind) in_.refuse("expected the end of the tag, found {:?}", in_.peek().text.substr(0, 40));
    in_.take();
  }

  /// A tag of one word that closes another.
  void expect_tag(std::string_view word) {
    in_.take();
    in_.take_word(word);
    expect_end();
  }

  Statement parse_tag(int line) {
    const std::string word = in_.peek().kind == Token::Kind::name ? in_.take().text : std::string();
    if (word == "if") return parse_if(line);
    if (word == "for") return parse_for(line);
    if (word == "set") return parse_set(line);
    if (word == "macro") return parse_macro(line);
    if (word == "generation") return parse_generation(line);
    if (word == "break" || word == "continue") {
      if (loops_ == 0) in_.refuse("{} stands in no loop", word);
      expect_end();
      return Statement{word == "break" ? Kind::leave : Kind::next, line};
    }
    in_.refuse("the tag {:?} is not supported", word);
  }

  Statement parse_if(int line) {
    Statement s{Kind::condition, line};
    s.branches.push_back({in_.parse_expression(), {}});
    for (;;) {
      expect_end();
      const bool is_else = !s.branches.back().condition;
      s.branches.back().body = is_else ? parse_until({"endif"}, "if") : parse_until({"elif", "else", "endif"}, "if");
      if (in_.is_word("endif", 1)) break;
      in_.take();
      s.branches.push_back({in_.take().text == "elif" ? in_.parse_expression() : nullptr, {}});
    }
    expect_tag("endif");
    return s;
  }

  Statement parse_for(int line) {
    Statement s{Kind::loop, line};
    do {
      s.targets.push_back(in_.expect_name("a variable"));
    } while (in_.take_symbol(","));
    if (!in_.take_word("in")) in_.refuse("expected in, found {:?}", in_.peek().text.substr(0, 40));
    s.expression = in_.parse_unconditional();
    if (in_.take_word("if")) s.filter = in_.parse_expression();
    if (in_.is_word("recursive")) in_.refuse("recursive loops are not supported");
    expect_end();
    ++loops_;
    s.branches.push_back({nullptr, parse_until({"else", "endfor"}, "for")});
    --loops_;
    if (in_.is_word("else", 1)) {
      expect_tag("else");
      s.branches.push_back({nullptr, parse_until({"endfor"}, "for")});
    }
    expect_tag("endfor");
    return s;
  }

  Statement parse_set(int line) {
    Statement s{Kind::assign, line};
    do {
      s.targets.push_back(in_.expect_name("a variable"));
    } while (in_.take_symbol(","));
    if (in_.take_symbol(".")) {
      if (s.targets.size() > 1) in_.refuse("expected one attribute to set");
      s.kind = Kind::assign_field;
      s.targets.push_back(in_.expect_name("an attribute"));
    }
    if (in_.take_symbol("=")) {
      s.expression = in_.parse_list();
      expect_end();
      return s;
    }
    if (s.kind != Kind::assign || s.targets.size() > 1) in_.refuse("expected \"=\" and a value");
    s.kind = Kind::capture;
    expect_end();
    s.branches.push_back({nullptr, parse_until({"endset"}, "set")});
    expect_tag("endset");
    return s;
  }

  Statement parse_macro(int line) {
    Statement s{Kind::macro, line};
    s.targets.push_back(in_.expect_name("a macro's name"));
    if (find_function(s.targets[0])) in_.refuse("the macro {} has the name of a function", s.targets[0]);
    macros_.insert(s.targets[0]);
    in_.expect_symbol("(");
    while (!in_.take_symbol(")")) {
      s.parameters.push_back({in_.expect_name("a parameter"), nullptr});
      if (in_.take_symbol("=")) s.parameters.back().fallback = in_.parse_expression();
      if (!in_.is_symbol(")")) in_.expect_symbol(",");
    }
    expect_end();
    const int loops = std::exchange(loops_, 0);
    s.branches.push_back({nullptr, parse_until({"endmacro"}, "macro")});
    loops_ = loops;
    expect_tag("endmacro");
    return s;
  }

  /// What transformers marks as the assistant's; here only its text matters.
  Statement parse_generation(int line) {
    Statement s{Kind::block, line};
    expect_end();
    s.branches.push_back({nullptr, parse_until({"endgeneration"}, "generation")});
    expect_tag("endgeneration");
    return s;
  }

  ExpressionParser in_;
  std::set<std::string, std::less<>> macros_;
  int loops_ = 0;  // around the tag that is being read
};

}  // namespace

Tree parse(std::string_view source, const std::string& name) {
  if (source.size() > kMaxSource) fail("{}:1: expected at most {} bytes, found {}", name, kMaxSource, source.size());
  return Parser(source, name).run();
}

}  // namespace sluice::jinja
