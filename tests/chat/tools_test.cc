#include "chat/tools.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace sluice {
namespace {

using Kind = AnswerEvent::Kind;
using Strings = std::vector<std::string>;

/// What all events say, piece by piece joined: "text" for content, "[0:name](arguments)" for calls.
struct Reader {
  explicit Reader(ToolSyntax syntax) : parser(syntax) {}

  void add(const AnswerEvents& events) {
    for (const AnswerEvent& e : events) {
      if (e.kind == Kind::content) {
        EXPECT_FALSE(e.text.empty());
        content += e.text;
      } else if (!e.name.empty()) {
        EXPECT_TRUE(e.text.empty());
        EXPECT_EQ(e.call, static_cast<int>(names.size()));
        names.push_back(e.name);
        arguments.emplace_back();
      } else {
        EXPECT_EQ(e.call + 1, static_cast<int>(names.size()));
        EXPECT_FALSE(e.text.empty());
        arguments.back() += e.text;
      }
    }
  }
  void read(const Strings& pieces) {
    for (const std::string& piece : pieces) {
      AnswerEvents events;
      parser.push(piece, events);
      add(events);
    }
    AnswerEvents events;
    parser.finish(events);
    add(events);
  }

  ToolCallParser parser;
  std::string content;
  Strings names, arguments;
};

struct Example {
  std::string text, content;
  Strings names, arguments;
  bool is_well_formed = true;
};

const std::vector<Example>& deepseek_examples() {
  static const std::string C = "<｜tool▁calls▁begin｜>", c = "<｜tool▁calls▁end｜>", K = "<｜tool▁call▁begin｜>",
                           k = "<｜tool▁call▁end｜>", S = "<｜tool▁sep｜>";
  static const std::string v3 = K + "function" + S + "f\n```json\n{\"a\": \"`x`\"}\n```" + k;
  static const std::vector<Example> all = {
      {"Hello", "Hello", {}, {}},
      {"Hello \n", "Hello \n", {}, {}},
      {"a <｜tool", "a <｜tool", {}, {}},
      {"a <｜User｜> b", "a <｜User｜> b", {}, {}},
      {C + v3 + c, "", {"f"}, {"{\"a\": \"`x`\"}"}},
      {"Let me see.\n\n" + C + v3 + "\n" + v3 + c, "Let me see.", {"f", "f"}, {"{\"a\": \"`x`\"}", "{\"a\": \"`x`\"}"}},
      {C + v3, "", {"f"}, {"{\"a\": \"`x`\"}"}},  // a single call of the original V3
      {C + v3 + c + " done", " done", {"f"}, {"{\"a\": \"`x`\"}"}},
      {C + K + "f" + S + "{\"a\": 1}" + k + K + "g" + S + "{}" + k + c, "", {"f", "g"}, {"{\"a\": 1}", "{}"}},
      {C + K + "function" + S + "{\"a\": 1}" + k + c, "", {"function"}, {"{\"a\": 1}"}},
      {C + K + "f" + S + k + c, "", {"f"}, {"{}"}},
      {C + K + "function" + S + "f\n```json\n```" + k + c, "", {"f"}, {"{}"}},
      {C + K + "function" + S + "f" + k + c, "", {"f"}, {"{}"}},
      {C + K + "function" + S + "f\n{\"a\": 1}" + k + c, "", {"f"}, {"{\"a\": 1}"}},
      {C + K + "function" + S + "f\n```{\"a\": 1}```" + k + c, "", {"f"}, {"{\"a\": 1}"}},
      {C + K + " f " + S + " {\"a\":\n\n 1} " + k + c, "", {"f"}, {"{\"a\":\n\n 1}"}},
      {v3, "", {"f"}, {"{\"a\": \"`x`\"}"}},
      // malformed
      {C + "what?", "what?", {}, {}, false},
      {C + v3 + "what?", "what?", {"f"}, {"{\"a\": \"`x`\"}"}, false},
      {C + K + "no name", K + "no name", {}, {}, false},
      {C + K + "no name" + k + c, K + "no name", {}, {}, false},
      {C + K + "two words" + S + "{}" + k + c, K + "two words" + S + "{}" + k + c, {}, {}, false},
      {C + K + S + "{}" + k + c + "x", K + S + "{}" + k + c + "x", {}, {}, false},
      {C + K + "function" + S + "a b\n```json\n{}\n```" + k,
       K + "function" + S + "a b\n```json\n{}\n```" + k,
       {},
       {},
       false},
      {C + K + "f" + S + "{\"a\": 1", "", {"f"}, {"{\"a\": 1"}, false},
      {C + K + "f" + S + "{\"a\": 1" + c + "x", "x", {"f"}, {"{\"a\": 1"}, false},
      {C + K + "f" + S + "{}" + K + "g" + S + "{}" + k + c, "", {"f", "g"}, {"{}", "{}"}, false},
      {C + K + std::string(400, 'x'), K + std::string(400, 'x'), {}, {}, false},
  };
  return all;
}

void expect_example(ToolSyntax syntax, const Example& e, const Strings& pieces) {
  Reader reader(syntax);
  reader.read(pieces);
  EXPECT_EQ(reader.names, e.names);
  EXPECT_EQ(reader.arguments, e.arguments);
  EXPECT_EQ(reader.content, e.content);
}

TEST(ToolCalls, DeepSeekForms) {
  for (const Example& e : deepseek_examples()) {
    SCOPED_TRACE(e.text);
    expect_example(ToolSyntax::deepseek, e, {e.text});
  }
}

TEST(ToolCalls, DoNotDependOnPieces) {
  for (const Example& e : deepseek_examples()) {
    SCOPED_TRACE(e.text);
    Reader whole(ToolSyntax::deepseek);
    whole.read({e.text});
    Strings bytes;
    for (const char c : e.text) bytes.emplace_back(1, c);
    for (size_t cut = 0; cut <= e.text.size() + 1; ++cut) {
      Reader reader(ToolSyntax::deepseek);
      reader.read(cut > e.text.size() ? bytes : Strings{e.text.substr(0, cut), e.text.substr(cut)});
      ASSERT_EQ(reader.content, whole.content) << cut;
      ASSERT_EQ(reader.names, whole.names) << cut;
      ASSERT_EQ(reader.arguments, whole.arguments) << cut;
    }
  }
}

/// White space may stand before a tag, and is held; a model that writes nothing else is read as fast as any other.
TEST(ToolCalls, WhiteSpaceIsReadOnce) {
  const std::string head = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", separator = "<｜tool▁sep｜>";
  const std::string begins[] = {"x", head + "f" + separator + "{", head + "function" + separator + "f\n```json\n{```",
                                head + "function" + separator + "f\n", head + "function" + separator};
  for (const std::string& begin : begins) {
    SCOPED_TRACE(begin);
    const auto start = std::chrono::steady_clock::now();
    Reader reader(ToolSyntax::deepseek);
    Strings pieces = {begin};
    pieces.resize(200'001, " ");
    reader.read(pieces);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(4));
  }
}

TEST(ToolCalls, Kimi) {
  const std::string text =
      "Sure. <|tool_calls_section_begin|><|tool_call_begin|>functions.get.x:0<|tool_call_argument_begin|>{\"a\": 1}"
      "<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
      "<|tool_calls_section_end|>";
  for (size_t cut = 0; cut <= text.size(); ++cut)
    expect_example(ToolSyntax::kimi, {text, "Sure.", {"get.x", "g"}, {"{\"a\": 1}", "{}"}},
                   {text.substr(0, cut), text.substr(cut)});
}

TEST(ToolCalls, NoSyntaxMeansContent) {
  const std::string text = "a <｜tool▁calls▁begin｜> b ";
  expect_example(ToolSyntax::none, {text, text, {}, {}}, {text});
}

TEST(ToolCalls, ComeAsTheyAreWritten) {
  ToolCallParser parser(ToolSyntax::deepseek);
  const auto push = [&](std::string_view piece) {
    AnswerEvents events;
    parser.push(piece, events);
    return events;
  };
  EXPECT_EQ(push("Hi"), (AnswerEvents{{Kind::content, "Hi"}}));
  EXPECT_EQ(push(" \n"), AnswerEvents());
  EXPECT_EQ(push("you"), (AnswerEvents{{Kind::content, " \nyou"}}));
  EXPECT_FALSE(parser.in_calls());
  EXPECT_EQ(push("\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"), AnswerEvents());
  EXPECT_TRUE(parser.in_calls());
  EXPECT_EQ(push("function<｜tool▁sep｜>wea"), AnswerEvents());
  EXPECT_EQ(push("ther\n"), (AnswerEvents{{Kind::tool_call, "", 0, "weather"}}));
  EXPECT_EQ(push("```json\n{"), (AnswerEvents{{Kind::tool_call, "{", 0}}));
  EXPECT_EQ(push("\"a\": "), (AnswerEvents{{Kind::tool_call, "\"a\":", 0}}));
  EXPECT_EQ(push("1}\n"), (AnswerEvents{{Kind::tool_call, " 1}", 0}}));
  EXPECT_EQ(push("```"), AnswerEvents());
  EXPECT_EQ(push("<｜tool▁call▁end｜>"), AnswerEvents());
  EXPECT_EQ(push("<｜tool▁calls▁end｜>"), AnswerEvents());
  EXPECT_FALSE(parser.in_calls());
}

TEST(ToolCalls, BegunCallsAreWhatTheParserReads) {
  for (const ToolSyntax syntax : {ToolSyntax::deepseek, ToolSyntax::kimi})
    for (const bool fenced : {false, true})
      for (const std::string& name : {std::string("weather"), std::string()}) {
        if (name.empty() && syntax == ToolSyntax::kimi) continue;  // the model has to write the number, too
        const std::string begun = begun_call(syntax, name, fenced);
        Reader reader(syntax);
        const std::string separator = syntax == ToolSyntax::deepseek && !fenced ? "<｜tool▁sep｜>" : "\n";
        reader.read({begun, name.empty() ? "now" + separator : "", "{\"a\": 1}", fenced ? "\n```" : "",
                     syntax == ToolSyntax::kimi ? "<|tool_call_end|>" : "<｜tool▁call▁end｜>"});
        EXPECT_EQ(reader.names, Strings{name.empty() ? "now" : name}) << begun;
        EXPECT_EQ(reader.arguments.at(0).substr(0, 8), "{\"a\": 1}") << begun;
      }
}

TEST(ToolCalls, Announcement) {
  const OrderedJson tools = parse_ordered_json(
      R"([{"type": "function", "function": {"name": "weather", "description": "Of a city",
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}},
          {"type": "function", "function": {"name": "now", "description": null}}])",
      "test");
  EXPECT_EQ(tool_announcement(tools, true),
            "## Tools\nYou have access to the following tools:\n\n"
            "### weather\nDescription: Of a city\n\n"
            "Parameters: {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}\n\n"
            "### now\nDescription: \n\nParameters: {}\n\n"
            "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>tool_call_name\n```json\ntool_call_"
            "arguments\n```"
            "<｜tool▁call▁end｜>{additional_tool_calls}<｜tool▁calls▁end｜>\n\n"
            "Where:\n"
            "- `tool_call_name` must be an exact match to one of the available tools\n"
            "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
            "- For multiple tool calls, write them one after the other, each on a new line\n");
  EXPECT_NE(tool_announcement(tools, false)
                .find("<｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>"),
            std::string::npos);
}

TEST(ToolCalls, SyntaxOfTemplates) {
  EXPECT_EQ(tool_syntax_of("{{ '<｜tool▁call▁begin｜>' }}"), ToolSyntax::deepseek);
  EXPECT_EQ(tool_syntax_of("<|tool_call_begin|>"), ToolSyntax::kimi);
  EXPECT_EQ(tool_syntax_of("{{ '<|im_system|>tool_declare<|im_middle|>' }}"), ToolSyntax::kimi);
  EXPECT_EQ(tool_syntax_of("{{ messages }}"), ToolSyntax::none);
}

}  // namespace
}  // namespace sluice
