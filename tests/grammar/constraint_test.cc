#include "grammar/constraint.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/error.h"
#include "walk.h"

namespace sluice {
namespace {

constexpr const char* kPerson =
    R"({"type":"object","properties":{"name":{"type":"string"},"tags":{"type":"array","items":{"type":"string"}}},
        "required":["name"],"additionalProperties":false})";

/// Tokens that accept() takes, asked one by one.
std::vector<int32_t> accepted(const Vocabulary& vocabulary, const Constraint& c) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id <= vocabulary.end_id; ++id)
    if (Constraint copy = c; copy.accept(id)) ids.push_back(id);
  return ids;
}

TEST(Constraint, MasksSayWhatIsAccepted) {
  const Vocabulary& vocabulary = json_vocabulary();
  const GrammarPart parts[] = {
      GrammarPart::json_object(),
      GrammarPart::json(kPerson),
      GrammarPart::json(R"({"type":"array","items":{"type":"string","maxLength":6,"minLength":1},"maxItems":3})"),
      GrammarPart::json(
          R"({"anyOf":[{"type":"array","items":{"type":"integer"}},{"type":"array"},{"type":"string"}]})"),
      GrammarPart::json(R"({"type":"object","properties":{"a":{},"ab":{},"name":{"type":"number","minimum":0.5}}})"),
  };
  for (const GrammarPart& part : parts)
    for (uint64_t seed = 0; seed < 6; ++seed) {
      Constraint c = vocabulary.constraint(part);
      std::mt19937_64 random(seed);
      int32_t id = 0;
      for (int i = 0; i < 40 && id != vocabulary.end_id; ++i) {
        const std::vector<int32_t> ids = vocabulary.allowed(c);
        ASSERT_EQ(ids, accepted(vocabulary, c)) << "seed " << seed << ", token " << i;
        ASSERT_FALSE(ids.empty());
        id = ids[random() % ids.size()];
        ASSERT_TRUE(c.accept(id));
      }
    }
}

// The mask of a deep place cannot be the one that was computed for shallow ones: tokens such as "[[[[" go too far.
TEST(Constraint, MasksSayWhatIsAcceptedWhereNestingEnds) {
  const Vocabulary& vocabulary = json_vocabulary();
  Constraint c = vocabulary.constraint(GrammarPart::json_object());
  for (const char byte : std::string("{\"a\":")) ASSERT_TRUE(c.accept(byte));
  size_t sizes = 0;
  for (int depth = 0;; ++depth) {
    const std::vector<int32_t> ids = vocabulary.allowed(c);
    ASSERT_EQ(ids, accepted(vocabulary, c)) << "depth " << depth;
    ASSERT_FALSE(ids.empty());
    sizes = std::max(sizes, ids.size());
    if (!c.accept('[')) {
      EXPECT_GT(depth, 50);
      EXPECT_LT(ids.size(), sizes);
      return;
    }
  }
}

TEST(Constraint, EndTokensAreAllowedExactlyAtEnds) {
  const Vocabulary& vocabulary = byte_vocabulary();
  Constraint c = vocabulary.constraint(GrammarPart::json(R"({"type":"integer"})"));
  EXPECT_FALSE(c.can_end());
  EXPECT_FALSE(c.accept(vocabulary.end_id));
  ASSERT_TRUE(c.accept('7'));
  EXPECT_TRUE(c.can_end());
  const auto ids = vocabulary.allowed(c);
  EXPECT_EQ(ids.back(), vocabulary.end_id);
  EXPECT_EQ(ids.size(), 11u);
  ASSERT_TRUE(c.accept(vocabulary.end_id));
  EXPECT_TRUE(vocabulary.allowed(c).empty());
  EXPECT_FALSE(c.accept('7'));
}

// Whatever the vocabulary has for it, an end token is no text.
TEST(Constraint, EndTokensAreNoText) {
  const auto text = std::make_shared<const Grammar>(GrammarPart::json(R"({"type":"string"})"), "text");
  const Vocabulary& vocabulary = byte_vocabulary();
  Constraint c(std::make_shared<TokenGrammar>(text, vocabulary.trie, std::vector<int32_t>{'x'}));
  ASSERT_TRUE(c.accept('"'));
  EXPECT_FALSE(c.accept('x'));
  const std::vector<int32_t> ids = vocabulary.allowed(c);
  EXPECT_FALSE(std::binary_search(ids.begin(), ids.end(), 'x'));
  ASSERT_TRUE(c.accept('"'));
  EXPECT_TRUE(c.accept('x'));
  EXPECT_TRUE(vocabulary.allowed(c).empty());
}

// Tokens may span the border between literal text and JSON; special tokens are allowed only where they stand.
TEST(Constraint, LiteralsAndSpecialTokens) {
  const Vocabulary vocabulary({"\n{\"", "}\n``", "x\n{}"});
  const GrammarPart call =
      GrammarPart::sequence({GrammarPart::token(vocabulary.special_id), GrammarPart::literal("f\n"),
                             GrammarPart::json(R"({"type":"object","properties":{"a":{"const":1}},
                                                      "required":["a"],"additionalProperties":false})"),
                             GrammarPart::literal("\n```"), GrammarPart::token(vocabulary.special_id)});
  Constraint c = vocabulary.constraint(call);
  EXPECT_EQ(vocabulary.allowed(c), std::vector<int32_t>{vocabulary.special_id});
  ASSERT_TRUE(c.accept(vocabulary.special_id));
  EXPECT_EQ(vocabulary.allowed(c), std::vector<int32_t>{'f'});
  ASSERT_TRUE(c.accept('f'));
  EXPECT_EQ(vocabulary.allowed(c), (std::vector<int32_t>{'\n', 256}));
  ASSERT_TRUE(c.accept(256));
  for (const char byte : std::string("a\":1")) ASSERT_TRUE(c.accept(byte));
  EXPECT_FALSE(c.accept(vocabulary.special_id));
  ASSERT_TRUE(c.accept(257));
  ASSERT_TRUE(c.accept('`'));
  EXPECT_FALSE(c.can_end());
  EXPECT_EQ(vocabulary.allowed(c), std::vector<int32_t>{vocabulary.special_id});
  ASSERT_TRUE(c.accept(vocabulary.special_id));
  EXPECT_EQ(vocabulary.allowed(c), std::vector<int32_t>{vocabulary.end_id});
}

TEST(Constraint, FreeTextUntilASpecialToken) {
  const Vocabulary& vocabulary = json_vocabulary();
  const GrammarPart calls = GrammarPart::repeat(
      GrammarPart::sequence({GrammarPart::token(vocabulary.special_id), GrammarPart::json(R"({"const":1})")}), 0, 2);
  Constraint c = vocabulary.constraint(GrammarPart::sequence({GrammarPart::free_text(), calls}));
  EXPECT_TRUE(c.can_end());
  ASSERT_TRUE(c.accept('x'));
  ASSERT_TRUE(c.accept(0xC3));
  EXPECT_FALSE(c.can_end());
  EXPECT_FALSE(c.accept('x'));  // half a character
  EXPECT_FALSE(c.accept(vocabulary.special_id));
  ASSERT_TRUE(c.accept(0xA9));
  for (int call = 0; call < 2; ++call) {
    ASSERT_TRUE(c.accept(vocabulary.special_id));
    EXPECT_FALSE(c.can_end());
    ASSERT_TRUE(c.accept('1'));
    EXPECT_TRUE(c.can_end());
  }
  EXPECT_EQ(vocabulary.allowed(c), std::vector<int32_t>{vocabulary.end_id});
}

TEST(Constraint, AtLeastAndAnyNumberOfTimes) {
  const GrammarPart item = GrammarPart::choice({GrammarPart::literal("ab"), GrammarPart::literal("cd")});
  const Constraint some = byte_vocabulary().constraint(GrammarPart::repeat(item, 2, GrammarPart::kUnbounded));
  EXPECT_FALSE(matches(some, "ab"));
  EXPECT_TRUE(matches(some, "abcd"));
  EXPECT_TRUE(matches(some, "abcdababcd"));
  EXPECT_FALSE(matches(some, "abcda"));
  const Constraint none = byte_vocabulary().constraint(GrammarPart::repeat(item, 0, 0));
  EXPECT_EQ(byte_vocabulary().allowed(none), std::vector<int32_t>{byte_vocabulary().end_id});
}

// More ways to read a text than are followed: the text stays valid and can be completed.
TEST(Constraint, VeryAmbiguousSchemas) {
  std::string schema = R"({"anyOf":[)";
  for (int i = 0; i < 300; ++i)
    schema += fmt::format(R"({}{{"type":"array","items":{{"type":"integer"}},"minItems":{}}})", i ? "," : "", i % 40);
  schema += "]}";
  const Constraint begin = json_vocabulary().constraint(GrammarPart::json(schema));
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const auto text = random_text(json_vocabulary(), begin, seed);
    ASSERT_TRUE(text);
    EXPECT_EQ(text->front(), '[');
    EXPECT_EQ(text->back(), ']');
  }
}

// Which of many patterns hold is another set after nearly every token of the vocabulary.
TEST(Constraint, MasksThatTakeTooLongAreGivenUp) {
  std::vector<std::string> words;
  for (int i = 0; i < 26 * 26 * 26; ++i)
    words.push_back(
        {static_cast<char>('a' + i / 676), static_cast<char>('a' + i / 26 % 26), static_cast<char>('a' + i % 26)});
  const Vocabulary vocabulary(words);
  const auto patterns = [](int count) {
    std::string schema = R"({"anyOf":[)";
    for (int i = 0; i < count; ++i)
      schema += fmt::format(R"-({}{{"type":"string","pattern":"^.*{}.*{}.*$"}})-", i ? "," : "",
                            static_cast<char>('a' + i % 26), static_cast<char>('a' + i * 7 / 26 % 26));
    return GrammarPart::json(schema + "]}");
  };
  Constraint few = vocabulary.constraint(patterns(3));
  ASSERT_TRUE(few.accept('"'));
  EXPECT_GT(vocabulary.allowed(few).size(), words.size());
  const auto grammar = std::make_shared<TokenGrammar>(std::make_shared<const Grammar>(patterns(100), "schema"),
                                                      vocabulary.trie, std::vector<int32_t>{vocabulary.end_id});
  Constraint many(grammar);
  ASSERT_TRUE(many.accept('"'));
  const size_t bytes = grammar->bytes();
  for (int i = 0; i < 20; ++i) {  // also when more and more is known
    try {
      vocabulary.allowed(many);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& e) {
      EXPECT_TRUE(std::string(e.what()).starts_with("schema: too ambiguous")) << e.what();
    }
    EXPECT_GT(grammar->bytes(), bytes);  // what was found until then counts
  }
  EXPECT_TRUE(many.accept('x'));  // it goes on where it was
}

// Every length has states of its own, of which not all are kept.
TEST(Constraint, LongStringsWithALimit) {
  constexpr int kLength = 20'000;
  Constraint c =
      byte_vocabulary().constraint(GrammarPart::json(fmt::format(R"({{"type":"string","maxLength":{}}})", kLength)));
  ASSERT_TRUE(c.accept('"'));
  for (int i = 0; i < kLength; ++i) {
    if (i % 3 == 0) {
      ASSERT_GT(byte_vocabulary().allowed(c).size(), 100u);
    }
    ASSERT_TRUE(c.accept('a'));
  }
  EXPECT_EQ(byte_vocabulary().allowed(c), std::vector<int32_t>{'"'});
}

TEST(Constraint, ThreadsShareAGrammar) {
  const Vocabulary& vocabulary = json_vocabulary();
  const auto masks = [&](const Constraint& begin) {
    std::vector<std::vector<int32_t>> out;
    Constraint c = begin;
    for (const char byte : std::string(R"({"name":"xyz","tags":["a","b","c"]})")) {
      out.push_back(vocabulary.allowed(c));
      c.accept(byte);
    }
    return out;
  };
  const auto expected = masks(vocabulary.constraint(GrammarPart::json(kPerson)));
  const Constraint begin = vocabulary.constraint(GrammarPart::json(kPerson));
  std::vector<std::vector<std::vector<int32_t>>> found(4);
  std::vector<std::thread> threads;
  for (auto& out : found) threads.emplace_back([&] { out = masks(begin); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& out : found) EXPECT_EQ(out, expected);
}

TEST(TokenGrammar, RefusesTokensThatAreNone) {
  const auto grammar = std::make_shared<const Grammar>(GrammarPart::token(5000), "tools");
  EXPECT_THROW(TokenGrammar(grammar, byte_vocabulary().trie, {1}), Error);
  const auto text = std::make_shared<const Grammar>(GrammarPart::free_text(), "text");
  EXPECT_THROW(TokenGrammar(text, byte_vocabulary().trie, {-1}), Error);
  EXPECT_THROW(TokenGrammar(text, byte_vocabulary().trie, {}), Error);
}

}  // namespace
}  // namespace sluice
