#include <gtest/gtest.h>

#include "jinja_kit.h"

namespace sluice {
namespace {

TEST(JinjaTemplate, TextAndComments) {
  EXPECT_EQ(rendered(""), "");
  EXPECT_EQ(rendered("a { b } {c% #}\n"), "a { b } {c% #}");
  EXPECT_EQ(rendered("a\n\n"), "a\n");
  EXPECT_EQ(rendered("a\r\nb\rc"), "a\nb\nc");
  EXPECT_EQ(rendered("a{# x {{ y }} {% #}b"), "ab");
  EXPECT_EQ(rendered("{{ '}}' }}{{ '%}' }}{{ {'a': {}}.a }}"), "}}%}{}");
}

TEST(JinjaTemplate, WhiteSpaceControl) {
  EXPECT_EQ(rendered("a \n {{- 1 -}} \n b"), "a1b");
  EXPECT_EQ(rendered("a \n {%- if 1 -%} \n b {%- endif -%} \n c"), "abc");
  EXPECT_EQ(rendered("a \n {#- x -#} \n b"), "ab");
  // trim_blocks: the line break after a tag; lstrip_blocks: blanks before a tag at the beginning of a line.
  EXPECT_EQ(rendered("a\n  {% if 1 %}\n  b\n  {% endif %}\nc"), "a\n  b\nc");
  EXPECT_EQ(rendered("  {% if 1 %}x{% endif %}\n\ny"), "x\ny");
  EXPECT_EQ(rendered("a {% if 1 %} b {% endif %} c"), "a  b  c");
  EXPECT_EQ(rendered("a\n  {{ 1 }}\nb"), "a\n  1\nb");
  EXPECT_EQ(rendered("a\n  {# x #}\nb"), "a\nb");
  EXPECT_EQ(rendered("a\n  {%+ if 1 %}b{% endif +%}\nc"), "a\n  b\nc");
  EXPECT_EQ(rendered("{% if 1 %}\n  {% if 1 %}\nx{% endif %}{% endif %}"), "x");
}

TEST(JinjaTemplate, Conditions) {
  const char* source = "{% if n == 1 %}one{% elif n == 2 %}two{% else %}many{% endif %}";
  EXPECT_EQ(rendered(source, {{"n", 1}}), "one");
  EXPECT_EQ(rendered(source, {{"n", 2}}), "two");
  EXPECT_EQ(rendered(source, {{"n", 3}}), "many");
  EXPECT_EQ(rendered("{% if missing %}a{% endif %}{% if [] %}b{% endif %}{% if '' %}c{% endif %}."), ".");
  EXPECT_EQ(rendered("{% if {} or 0.0 %}a{% endif %}{% if [0] %}b{% endif %}"), "b");
}

TEST(JinjaTemplate, Loops) {
  EXPECT_EQ(rendered("{% for x in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}"
                     "{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}"),
            "10TrueFalse332 21FalseFalse321 32FalseTrue310 ");
  EXPECT_EQ(rendered("{% for x in 'ab' %}{{ loop.previtem }}{{ x }}{{ loop.nextitem }},{% endfor %}"), "ab,ab,");
  EXPECT_EQ(rendered("{% for x in [] %}x{% else %}none{% endfor %}{% for x in missing %}x{% endfor %}"), "none");
  EXPECT_EQ(rendered("{% for x in range(6) if x % 2 %}{{ loop.index }}:{{ x }} {% endfor %}"), "1:1 2:3 3:5 ");
  EXPECT_EQ(rendered("{% for x in [1] if x > 1 %}x{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(rendered("{% for x in range(9) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}"
                     "{% endif %}{{ x }}{% endfor %}"),
            "02");
  EXPECT_EQ(rendered("{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}"), "ab");
  EXPECT_EQ(rendered("{% for k, v in [[1, 2], [3, 4]] %}{{ k + v }} {% endfor %}"), "3 7 ");
  EXPECT_EQ(rendered("{% for x in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}"), "aba");
  EXPECT_EQ(rendered("{% for x in [1, 2] %}{% for y in [1] %}{{ loop.last }}{% endfor %}{{ loop.last }} {% endfor %}"),
            "TrueFalse TrueTrue ");
}

TEST(JinjaTemplate, VariablesStayInTheirLoop) {
  EXPECT_EQ(rendered("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}"), "15151");
  EXPECT_EQ(rendered("{% for i in [1] %}{% set y = 1 %}{% endfor %}{{ y is defined }}{{ i is defined }}"),
            "FalseFalse");
  EXPECT_EQ(rendered("{% if true %}{% set x = 2 %}{% endif %}{{ x }}"), "2");
  EXPECT_EQ(rendered("{% set ns = namespace(n=0, s='') %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}"
                     "{% set ns.new = i %}{% endfor %}{{ ns.n }}{{ ns['new'] }}{{ ns.q is defined }}"),
            "32False");
}

TEST(JinjaTemplate, Set) {
  EXPECT_EQ(rendered("{% set a, b = 1, 2 %}{{ a }}{{ b }}"), "12");
  EXPECT_EQ(rendered("{% set x = 1, 2 %}{{ x }}"), "[1, 2]");
  EXPECT_EQ(rendered("{% set x %}a{{ 1 + 1 }}{% endset %}{{ x|upper }}"), "A2");
  EXPECT_EQ(rendered("{% set x = 2 %}{{ x }}", {{"x", 1}}), "2");
}

TEST(JinjaTemplate, Macros) {
  EXPECT_EQ(rendered("{% macro f(a, b='x', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 2) }} "
                     "{{ f(b=3, a=4) }} {{ f() }}"),
            "1x1 121 434 x");
  EXPECT_EQ(rendered("{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}"), "3210");
  // A macro sees what is set outside of it, but not its caller's loop.
  EXPECT_EQ(rendered("{% set g = 1 %}{% macro f() %}{{ g }}{{ i is defined }}{{ v }}{% endmacro %}"
                     "{% for i in [1] %}{{ f() }}{% endfor %}",
                     {{"v", 7}}),
            "1False7");
}

TEST(JinjaTemplate, GenerationMarksNothing) {
  EXPECT_EQ(rendered("a{% generation %}b{{ 1 }}{% endgeneration %}c"), "ab1c");
}

TEST(JinjaTemplate, KnowsWhatItReads) {
  const ChatTemplate t("{% if tools %}{{ tools[0].thinking }}{% endif %}{% set x = 1 %}");
  EXPECT_TRUE(t.reads("tools"));
  EXPECT_FALSE(t.reads("thinking"));
  EXPECT_FALSE(t.reads("x"));
}

TEST(JinjaTemplate, WhatIsNotSupportedIsRefusedWhenRead) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% include 'x' %}", "t:1: the tag \"include\" is not supported"},
      {"\n{% raw %}x{% endraw %}", "t:2: the tag \"raw\" is not supported"},
      {"{% extends 'x' %}", "t:1: the tag \"extends\" is not supported"},
      {"{% call f() %}{% endcall %}", "t:1: the tag \"call\" is not supported"},
      {"{% filter upper %}{% endfilter %}", "t:1: the tag \"filter\" is not supported"},
      {"{{ x|sort }}", "t:1: the filter sort is not supported"},
      {"{{ x|trim('a', 'b') }}", "t:1: the filter trim with 2 arguments is not supported"},
      {"{{ x|tojson(level=1) }}", "t:1: the argument level of the filter tojson is not supported"},
      {"{{ x is callable }}", "t:1: the test callable is not supported"},
      {"{{ x.format(1) }}", "t:1: the method format is not supported"},
      {"{{ x.append(1) }}", "t:1: the method append is not supported"},
      {"{{ lipsum() }}", "t:1: the function lipsum is not supported"},
      {"{{ loop(1) }}", "t:1: the function loop is not supported"},
      {"{{ x[0]() }}", "t:1: only functions, macros and methods can be called"},
      {"{{ f(*x) }}", "t:1: arguments with * are not supported"},
      {"{{ 2 ** 3 }}", "t:1: the operator ** is not supported"},
      {"{{ 1 < 2 < 3 }}", "t:1: a chain of comparisons is not supported"},
      {"{% for x in y recursive %}{% endfor %}", "t:1: recursive loops are not supported"},
      {"{% macro range() %}{% endmacro %}", "t:1: the macro range has the name of a function"},
      {"{{ '\\061' }}", "t:1: the escape \\0 is not supported"},
  };
  for (const auto& [source, message] : cases)
    EXPECT_EQ(unreadable(source).substr(0, std::string(message).size()), message) << source;
}

TEST(JinjaTemplate, MalformedTemplatesAreRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ 1", "t:1: a tag is not closed"},
      {"{# x", "t:1: a comment is not closed"},
      {"{{ 'a }}", "t:1: a string is not closed"},
      {"{% if 1 %}", "t:1: the tag if is not closed"},
      {"{% for x in y %}", "t:1: the tag for is not closed"},
      {"{% endif %}", "t:1: the tag \"endif\" is not supported"},
      {"{% else %}", "t:1: the tag \"else\" is not supported"},
      {"{% if 1 %}{% else %}{% else %}{% endif %}", "t:1: the tag \"else\" is not supported"},
      {"{% if 1 %}{% endfor %}{% endif %}", "t:1: the tag \"endfor\" is not supported"},
      {"{% %}", "t:1: the tag \"\" is not supported"},
      {"{{ }}", "t:1: expected a value, found the end of the tag"},
      {"{{ 1 2 }}", "t:1: expected the end of the tag, found \"2\""},
      {"{{ (1 }}", "t:1: found } without its beginning"},
      {"{{ [1 }}", "t:1: found } without its beginning"},
      {"{{ 1) }}", "t:1: found ) without its beginning"},
      {"{{ x. }}", "t:1: expected an attribute's name, found the end of the tag"},
      {"{{ x[] }}", "t:1: expected an index, found \"]\""},
      {"{{ x[1:2:3:4] }}", "t:1: a slice has at most three parts"},
      {"{{ and }}", "t:1: expected a value, found \"and\""},
      {"{{ x $ y }}", "t:1: unexpected character \"$\""},
      {"{{ 1x }}", "t:1: malformed number \"1x\""},
      {"{{ 99999999999999999999 }}", "t:1: the number 99999999999999999999 is too large"},
      {"{{ '\\uD800' }}", "t:1: the escape \\u is no character"},
      {"{{ '\\x4' }}", "t:1: malformed escape \\x"},
      {"{{ f(a=1, 2) }}", "t:1: expected a named argument after the first one, found \"2\""},
      {"{% for in x %}{% endfor %}", "t:1: expected a variable, found \"in\""},
      {"{% set x.y.z = 1 %}", "t:1: expected \"=\" and a value"},
      {"{% set x, y %}{% endset %}", "t:1: expected \"=\" and a value"},
      {"{% break %}", "t:1: break stands in no loop"},
      {"{% for x in y %}{% macro f() %}{% continue %}{% endmacro %}{% endfor %}", "t:1: continue stands in no loop"},
  };
  for (const auto& [source, message] : cases)
    EXPECT_EQ(unreadable(source).substr(0, std::string(message).size()), message) << source;
}

std::string repeated(std::string_view text, size_t n) {
  std::string all;
  for (size_t i = 0; i < n; ++i) all += text;
  return all;
}

TEST(JinjaTemplate, SizeAndDepthAreBounded) {
  EXPECT_NE(unreadable(std::string(300'000, 'x')).find("expected at most 262144 bytes"), std::string::npos);
  for (const auto& [open, close] : std::initializer_list<std::pair<const char*, const char*>>{{"(", ")"},
                                                                                              {"[", "]"},
                                                                                              {"{'a':", "}"},
                                                                                              {"x[", "]"},
                                                                                              {"f(", ")"},
                                                                                              {"not ", ""},
                                                                                              {"- ", ""},
                                                                                              {"1 if 1 else ", ""},
                                                                                              {"1|default(", ")"}}) {
    EXPECT_NE(unreadable("{{ " + repeated(open, 10'000) + "1" + repeated(close, 10'000) + " }}").find("nested deeper"),
              std::string::npos)
        << open;
    EXPECT_EQ(unreadable("{{ " + repeated(open, 30) + "1" + repeated(close, 30) + " }}").find("nested deeper"),
              std::string::npos)
        << open;
  }
  for (const char* link : {" + 1", " ~ 1", " * 1", " or 1", " and 1", ".a", "[0]", "|abs", " is odd", " if 1"})
    EXPECT_NE(unreadable("{{ x" + repeated(link, 10'000) + " }}").find("nested deeper"), std::string::npos) << link;
  EXPECT_NE(unreadable(repeated("{% if 1 %}", 10'000)).find("nested deeper"), std::string::npos);
  EXPECT_NE(unreadable(repeated("{% for x in y %}", 10'000)).find("nested deeper"), std::string::npos);
}

TEST(JinjaTemplate, StepsAndMemoryAreBounded) {
  const std::string steps = "the template takes more than 5242880 steps",
                    memory = "the template makes more than 268435456 bytes";
  const std::pair<const char*, std::string> cases[] = {
      {"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", ""},
      {"{{ range(999999999999) }}", ""},
      {"{{ 'x' * 999999999999 }}", ""},
      {"{{ [1] * 999999999999 }}", ""},
      {"{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", memory},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", ""},
      {"{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x|replace('x', 'xxxx') %}{% endfor %}",
       memory},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "macros call each other too deeply"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}",
       "a value is nested deeper than 100"},
      // A list that holds itself twice, thirty times over, is small in memory and endless to walk.
      {"{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == "
       "ns.x|list }}",
       ""},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson "
       "}}",
       ""},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
       ""},
      {"{% set ns = namespace() %}{% set ns.x = ns %}", "a namespace cannot be part of another value"},
      {"{% set ns = namespace() %}{% set x = [ns] %}", "a namespace cannot be part of another value"},
      {"{% for i in [1] %}{% set x = [loop] %}{% endfor %}", "a loop cannot be part of another value"},
  };
  for (const auto& [source, message] : cases) {
    const std::string found = refused(source);
    EXPECT_NE(found.find(message.empty() ? "the template " : message), std::string::npos) << source << ": " << found;
  }
  // Searches are as long as the product of what is searched and what is looked for.
  OrderedJson context = {{"a", std::string(1'000'000, 'a')}, {"b", std::string(400'000, 'a') + "b"}};
  for (const char* source :
       {"{{ b in a }}", "{{ a.find(b) }}", "{{ a.split(b) }}", "{{ a.count(b) }}", "{{ a|replace(b, 'x') }}"})
    EXPECT_NE(refused(source, context).find(steps), std::string::npos) << source;
}

}  // namespace
}  // namespace sluice
