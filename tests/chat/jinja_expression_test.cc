#include <gtest/gtest.h>

#include "jinja_kit.h"

namespace sluice {
namespace {

struct Example {
  const char *source, *text;
};

const OrderedJson& variables() {
  static const OrderedJson all = parse_ordered_json(
      R"({"s": "héllo", "n": 7, "f": 1.5, "yes": true, "nothing": null, "list": [1, 2, 3], "words": ["b", "a"],
          "map": {"z": 1, "a": "x", "items": 3}, "people": [{"name": "Ann", "age": 3, "in": {"a": 1}},
          {"name": "Bob", "age": 5, "in": {"a": 2}}, {"name": "Cy"}]})",
      "test");
  return all;
}

void expect_all(std::initializer_list<Example> examples) {
  for (const auto& [source, text] : examples) {
    SCOPED_TRACE(source);
    EXPECT_EQ(rendered(source, variables()), text);
  }
}

TEST(JinjaExpression, Literals) {
  expect_all({{"{{ 'a' }}{{ \"b\" }}", "ab"},
              {R"({{ '\n\t\\\'\"\x41\u00e9\U0001F338\q' }})", "\n\t\\'\"A\xC3\xA9\xF0\x9F\x8C\xB8\\q"},
              {"{{ 'a' 'b' }}", "ab"},
              {"{{ 12 }} {{ 1.5 }} {{ 2.0 }} {{ -3 }} {{ +3 }}", "12 1.5 2.0 -3 3"},
              {"{{ true }} {{ False }} {{ none }} {{ None }}", "True False None None"},
              {"{{ [1, 'a', none, 1.0, true] }}", "[1, 'a', None, 1.0, True]"},
              {"{{ (1, 2) }} {{ (1,) }} {{ () }} {{ (1) }}", "[1, 2] [1] [] 1"},
              {"{{ {'a': {'b': 1}} }}", "{'a': {'b': 1}}"},
              {"{{ {'a': 1, 'a': 2} }}", "{'a': 2}"},
              {"{{ [\"it's\", 'x\"y\\'z', '\\n'] }}", R"(["it's", 'x"y\'z', '\n'])"}});
}

TEST(JinjaExpression, Arithmetic) {
  expect_all({{"{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 - 2 - 1 }}", "7 9 4"},
              {"{{ 7 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }}", "3.5 3 -4 2 -2 3.0"},
              {"{{ 1 ~ 2 * 3 }}", "16"},
              {"{{ 'a' ~ 1 ~ none ~ missing }}", "a1None"},
              {"{{ 'a' + 'b' }}{{ 'ab' * 2 }}{{ [1] + [2] }}{{ 2 * [0] }}",
               "abab"
               "ab[1, 2][0, 0]"},
              {"{{ true + 1 }} {{ 0.1 + 0.2 }} {{ 10000000000000000.0 }}", "2 0.30000000000000004 1e+16"}});
}

TEST(JinjaExpression, ComparisonAndLogic) {
  expect_all({{"{{ 1 == 1.0 }} {{ 1 == '1' }} {{ true == 1 }} {{ none == none }}", "True False True True"},
              {"{{ [1, {'a': 2}] == [1, {'a': 2}] }} {{ {'a': 1} != {'a': 2} }}", "True True"},
              {"{{ 1 < 2 }} {{ 'b' < 'a' }} {{ 2 >= 2 }} {{ 2 <= 1 }} {{ 3 > 2.5 }}", "True False True False True"},
              {"{{ 'ell' in 'hello' }} {{ 2 in list }} {{ 'a' in map }} {{ 'q' not in map }}", "True True True True"},
              {"{{ 1 in missing }}", "False"},
              {"{{ '' or 'x' }} {{ 0 and 1 }} {{ 1 and 2 }} {{ not 0 }} {{ not not 1 }}", "x 0 2 True True"},
              {"{{ 1 or missing.x }} {{ 0 and missing.x }}", "1 0"},
              {"{{ not 1 == 2 }} {{ 1 if false else 2 if false else 3 }}", "True 3"},
              {"{{ 'a' if 1 }}{{ 'b' if 0 }}.", "a."},
              {"{{ not missing is defined }} {{ n + 1 is number }}", "True 8"}});
}

TEST(JinjaExpression, LookingInside) {
  expect_all({{"{{ map.a }}{{ map['a'] }}{{ map.items }}{{ map.missing }}{{ nothing.x }}", "xx3"},
              {"{{ list[0] }}{{ list[-1] }}{{ list[5] }}{{ list.1 }}{{ s[1] }}{{ s[-1] }}", "132\xC3\xA9o"},
              {"{{ list[1:] }} {{ list[:-1] }} {{ list[::-1] }} {{ list[::2] }} {{ list[5:] }} {{ list[-2:] }}",
               "[2, 3] [1, 2] [3, 2, 1] [1, 3] [] [2, 3]"},
              {"{{ s[1:3] }} {{ s[::-1] }} {{ s[:0] }}", "\xC3\xA9l oll\xC3\xA9h "},
              {"{{ list[2:0:-1] }} {{ list[0:3:5] }}", "[3, 2] [1]"},
              {"{{ people[1]['in'].a }} {{ people[0].name[0] }}", "2 A"},
              {"{{ [1, 2][0] }} {{ {'a': 5}.a }} {{ (list + [4])[3] }}", "1 5 4"}});
}

TEST(JinjaExpression, Filters) {
  expect_all(
      {{"{{ ' a '|trim }}|{{ 'xax'|trim('x') }}|{{ '\xC2\xA0\xE3\x80\x80z\xE2\x80\xA8' | trim }}", "a|a|z"},
       {"{{ s|length }} {{ list|count }} {{ map|length }} {{ missing|length }}", "5 3 3 0"},
       {"{{ words|join(', ') }} {{ list|join }} {{ people|join('-', attribute='name') }} {{ 'ab'|join('.') }}",
        "b, a 123 Ann-Bob-Cy a.b"},
       {"{{ 'aB'|upper }}{{ 'aB'|lower }}{{ 'hello wORLD'|title }}{{ 'hELLO'|capitalize }}", "ABabHello WorldHello"},
       {"{{ missing|default('d') }} {{ none|default('d') }} {{ ''|default('d', true) }} {{ ''|d('e', boolean=true) }}.",
        "d None d e."},
       {"{{ list|first }}{{ list|last }}{{ 'xyz'|first }}{{ []|first }}", "13x"},
       {"{{ 'ab'|list }} {{ map|list }} {{ list|list }}", "['a', 'b'] ['z', 'a', 'items'] [1, 2, 3]"},
       {"{{ map|items|list }} {{ missing|items }} {{ map|dictsort }}",
        "[['z', 1], ['a', 'x'], ['items', 3]] [] [['a', 'x'], ['items', 3], ['z', 1]]"},
       {"{{ people|map(attribute='name')|list }} {{ people|map(attribute='in.a', default=0)|list if false }} {{ "
        "words|map('upper')|join }}",
        "['Ann', 'Bob', 'Cy']  BA"},
       {"{{ people|selectattr('age')|map(attribute='name')|list }} {{ people|selectattr('age', 'equalto', "
        "5)|list|length }} {{ people|selectattr('name', 'in', ['Cy'])|map(attribute='name')|first }}",
        "['Ann', 'Bob'] 1 Cy"},
       {"{{ people|rejectattr('age', 'defined')|map(attribute='name')|list }} {{ list|select('odd')|list }} {{ "
        "list|reject('==', 2)|list }} {{ [0, 1]|select|list }}",
        "['Cy'] [1, 3] [1, 3] [1]"},
       {"{{ 'aXbX'|replace('X', '-') }} {{ 'aXbX'|replace('X', '-', 1) }} {{ 'ab'|replace('', '.') }}",
        "a-b- a-bX .a.b."},
       {"{{ 5|string + 'a' }} {{ '12'|int + 1 }} {{ 'x'|int }} {{ '1.9'|int }} {{ 2.7|int }} {{ '1.5'|float }} {{ "
        "'x'|int(9) }}",
        "5a 13 0 1 2 1.5 9"},
       {"{{ -3|abs }} {{ [2, 1, 2]|unique|list }} {{ list|reverse|list }} {{ 'abc'|reverse }} {{ 'x'|safe }}",
        "3 [2, 1] [3, 2, 1] cba x"},
       {"{{ 'a\nb\n\nc'|indent(2) }}|{{ 'a'|indent(2, true) }}", "a\n  b\n\n  c|  a"},
       {"{{ 'a,b'.split(',')|last|upper }}", "B"}});
}

TEST(JinjaExpression, Json) {
  expect_all(
      {{"{{ map|tojson }}", R"({"z": 1, "a": "x", "items": 3})"},
       {"{{ [1, 1.0, true, none, 'é\\n\"\\\\<&>\\x01'] | tojson }}", R"([1, 1.0, true, null, "é\n\"\\<&>\u0001"])"},
       {"{{ map|tojson(separators=(',', ':')) }}", R"({"z":1,"a":"x","items":3})"},
       {"{{ 'é'|tojson(ensure_ascii=true) }} {{ map|tojson(sort_keys=true) }}",
        R"("\u00e9" {"a": "x", "items": 3, "z": 1})"},
       {"{{ {'a': [1, {}], 'b': []}|tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"}});
  EXPECT_EQ(refused("{{ missing|tojson }}"), "t:1: tojson: an undefined value has no JSON");
}

TEST(JinjaExpression, Tests) {
  expect_all(
      {{"{{ s is string }}{{ n is string }}{{ map is mapping }}{{ list is mapping }}", "TrueFalseTrueFalse"},
       {"{{ list is iterable }}{{ s is iterable }}{{ n is iterable }}{{ map is sequence }}", "TrueTrueFalseTrue"},
       {"{{ n is number }}{{ f is float }}{{ n is integer }}{{ yes is boolean }}{{ yes is true }}{{ n is true }}{{ "
        "false is false }}",
        "TrueTrueTrueTrueTrueFalseTrue"},
       {"{{ nothing is none }}{{ missing is none }}{{ missing is undefined }}{{ nothing is defined }}{{ map.q is "
        "defined }}",
        "TrueFalseTrueTrueFalse"},
       {"{{ n is odd }}{{ n is even }}{{ 6 is divisibleby 3 }}{{ 6 is divisibleby(4) }}", "TrueFalseTrueFalse"},
       {"{{ n is eq 7 }}{{ n is ne 7 }}{{ n is in [7] }}{{ n is gt 6 }}{{ n is le(6) }}{{ n is not lt 8 }}",
        "TrueFalseTrueTrueFalseFalse"},
       {"{{ 'AB' is upper }}{{ 'aB' is lower }}{{ s is not none and s is not string }}", "TrueFalseFalse"}});
}

TEST(JinjaExpression, Methods) {
  expect_all(
      {{"{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b c'.split(none, 1) }}",
        "['a', 'b', 'c'] ['a', 'b,c'] ['a', 'b'] ['a', 'b c']"},
       {"{{ 'a,b,c'.rsplit(',', 1) }} {{ 'x</think>y'.split('</think>')[-1] }} {{ 'a\r\nb\n\nc'.splitlines() if false "
        "else ['a'] }}",
        "['a,b', 'c'] y ['a']"},
       {"{{ ' a '.strip() }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ '\n\na'.lstrip('\n') }}|{{ "
        "'xyax'.strip('xy') }}",
        "a|a | a|a|a"},
       {"{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'bc')) }}{{ 'abc'.find('c') }}{{ 'aXa'.count('a') }}",
        "TrueTrue22"},
       {"{{ 'aB'.upper() }}{{ 'aB'.lower() }}{{ 'ab cd'.title() }}{{ 'ab'.capitalize() }}{{ 'aa'.replace('a', 'b', 1) "
        "}}",
        "ABabAb CdAbba"},
       {"{{ map.get('a') }} {{ map.get('q') }} {{ map.get('q', 5) }} {{ map.keys()|list }} {{ map.values()|list }}",
        "x None 5 ['z', 'a', 'items'] [1, 'x', 3]"},
       {"{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}", "z=1;a=x;items=3;"},
       {"{{ 'a\nb'.splitlines() }}", "['a', 'b']"}});
}

TEST(JinjaExpression, Functions) {
  expect_all({{"{{ range(3)|list }}{{ range(1, 3)|list }}{{ range(5, 0, -2)|list }}", "[0, 1, 2][1, 2][5, 3, 1]"},
              {"{{ dict(a=1, b='x') }}", "{'a': 1, 'b': 'x'}"}});
  EXPECT_EQ(ChatTemplate("{{ strftime_now('%Y-%m-%d %H:%M') }}").render(OrderedJson::object(), 1735689600),
            "2025-01-01 00:00");
  EXPECT_EQ(refused("\n{{ raise_exception('Only\nusers') }}"), "t:2: the template refuses: Only users");
}

TEST(JinjaExpression, WhatPythonRefusesIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ missing.x }}", "t:1: missing is undefined"},
      {"\n\n{{ missing['x'] }}", "t:3: missing is undefined"},
      {"{{ 'a' + 1 }}", "t:1: a string + an integer is not supported"},
      {"{{ 'a' + missing }}", "t:1: missing is undefined"},
      {"{{ 'a' + none }}", "t:1: a string + none is not supported"},
      {"{{ 1 // 0 }}", "t:1: division by zero"},
      {"{{ 1 < 'a' }}", "t:1: an integer and a string have no order"},
      {"{{ 9223372036854775807 + 1 }}", "t:1: the result of + is too large"},
      {"{{ -9223372036854775807 - 2 }}", "t:1: the result of - is too large"},
      {"{{ 5|length }}", "t:1: an integer has no length"},
      {"{% for x in 5 %}{% endfor %}", "t:1: for: expected a list, a mapping or a string, found an integer"},
      {"{% for a, b in [1] %}{% endfor %}", "t:1: expected a list of 2 values, found an integer"},
      {"{{ n.upper() }}", "t:1: upper: expected a string, found an integer"},
      {"{{ 'a'.split('') }}", "t:1: split: expected a separator that is not empty"},
      {"{{ list[::0] }}", "t:1: slice: expected a step other than 0"},
      {"{{ range(0, 5, 0) }}", "t:1: range: expected a step other than 0"},
      {"{{ {1: 2} }}", "t:1: a mapping's key: expected a string, found an integer"},
      {"{{ [1]|map('nope') }}", "t:1: the filter \"nope\" in map is not supported"},
      {"{{ [1]|map('map', 'x') }}", "t:1: the filter \"map\" in map is not supported"},
      {"{{ [1]|select('nope') }}", "t:1: the test \"nope\" in select is not supported"},
  };
  for (const auto& [source, message] : cases) EXPECT_EQ(refused(source, variables()), message) << source;
}

}  // namespace
}  // namespace sluice
