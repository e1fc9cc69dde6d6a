// Log probabilities that wait to be sent are bounded.
#include "fixture.h"
#include "serve/chat_writer.h"
#include "serve/completion_writer.h"
#include "serve/kept_logprobs.h"

namespace sluice::test {
namespace {

constexpr size_t kTop = 20;

/// Gives the writer `tokens` tokens with alternatives; returns the length of what it sent.
size_t write(ResponseWriter& writer, size_t tokens) {
  TokenLogprobs l{{'a', -0.5f}, {}};
  for (size_t i = 0; i < kTop; ++i) l.top.push_back({static_cast<int32_t>('a' + i), -1.f});
  std::string out;
  size_t sent = 0;
  for (size_t i = 0; i < tokens; ++i) {
    writer.token(0, {'a', static_cast<int64_t>(i), &l});
    writer.take(out);
    sent += std::exchange(out, {}).size();
  }
  writer.finished(0, {}, out);
  writer.end(out);
  return sent + out.size();
}

ChatWriter chat_writer(bool stream) {
  return {tokenizer(), {{"id", "model", 0, stream, false}, {}, {}, 1, true, true}};
}
CompletionWriter completion_writer(bool stream) {
  return {tokenizer(), {{'x'}}, {{"id", "model", 0, stream, false}, {}, 1, true, false}};
}

constexpr size_t kMostTokens = kMostLogprobs / (1 + kTop);

TEST(Logprobs, AResponseHasSoMany) {
  ChatWriter chat = chat_writer(false), too_long_chat = chat_writer(false);
  write(chat, 1000);
  EXPECT_EQ(Json::parse(chat.body())["choices"][0]["logprobs"]["content"][999]["top_logprobs"].size(), kTop);
  EXPECT_THROW(write(too_long_chat, kMostTokens + 1), Error);
  CompletionWriter completion = completion_writer(false), too_long = completion_writer(false);
  write(completion, 1000);
  EXPECT_EQ(Json::parse(completion.body())["choices"][0]["logprobs"]["top_logprobs"][999].size(), kTop);
  EXPECT_THROW(write(too_long, kMostTokens + 1), Error);
}

/// A text that did not come about needs no room for its prompt.
TEST(Logprobs, TextsThatFailHaveNone) {
  CompletionWriter writer(tokenizer(), {{'x'}, {'y'}}, {{"id", "model", 0, false, false}, {}, 1, true, true});
  EXPECT_THROW(write(writer, kMostTokens + 1), Error);
  std::string out;
  for (const Finish finish : {Finish::failed, Finish::cancelled, Finish::expired}) {
    RequestResult result;
    result.finish = finish;
    EXPECT_NO_THROW(writer.finished(1, result, out));
  }
}

TEST(Logprobs, AStreamHasAnyNumber) {
  ChatWriter chat = chat_writer(true);
  EXPECT_GT(write(chat, kMostTokens + 1), kMostLogprobs);
  CompletionWriter completion = completion_writer(true);
  EXPECT_GT(write(completion, kMostTokens + 1), kMostLogprobs);
}

/// Also of a prompt, which comes in parts.
TEST(Logprobs, AStreamSendsThoseOfThePromptAsTheyCome) {
  const std::vector<int32_t> ids(kMostLogprobs + 100, 'x');
  const auto writer = [&](bool stream) {
    return CompletionWriter(tokenizer(), {ids}, {{"id", "model", 0, stream, false}, {}, 1, true, true});
  };
  const std::vector<TokenLogprobs> part(1000, {{'x', -0.5f}, {}});
  CompletionWriter streaming = writer(true), whole = writer(false);
  std::string out;
  size_t sent = 0;
  for (size_t i = 0; i < ids.size() / part.size(); ++i) {
    streaming.prompt(0, part, out);
    const Json choice = Json::parse(std::exchange(out, {}).substr(6))["choices"][0];
    EXPECT_EQ(choice["text"].get<std::string>().size(), i == 0 ? ids.size() : 0);
    EXPECT_EQ(choice["logprobs"]["text_offset"].back(), sent + part.size() - (i > 0));
    sent += choice["logprobs"]["tokens"].size();
  }
  EXPECT_EQ(sent, 1 + ids.size() / part.size() * part.size());
  EXPECT_THROW(
      {
        for (size_t i = 0; i < ids.size() / part.size(); ++i) whole.prompt(0, part, out);
      },
      Error);
  EXPECT_EQ(out, "");
}

}  // namespace
}  // namespace sluice::test
