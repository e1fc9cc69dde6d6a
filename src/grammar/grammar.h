// What a text must look like: JSON by a schema, with literal text and special tokens around it. Texts are read byte by
// byte; how bytes are cut into tokens is the business of grammar/constraint.h.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// A description of texts, put together from these pieces. A plain value; Grammar compiles it.
struct GrammarPart {
  enum class Kind : uint8_t { literal, token, free_text, json, json_object, sequence, choice, repeat };

  /// Exactly these bytes (valid UTF-8, may be empty).
  static GrammarPart literal(std::string bytes);
  /// One special token, by id: the only way for a token that is not made of ordinary text.
  static GrammarPart token(int32_t id);
  /// Any valid UTF-8 without special tokens, also none. Where a trigger that ends it is a special token, it is not
  /// ambiguous.
  static GrammarPart free_text();
  /// JSON that is valid for `schema`: the text of a JSON schema as the client wrote it, since properties come in the
  /// order in which the schema names them. docs/json-schema.md says what is supported.
  static GrammarPart json(std::string schema);
  /// Any JSON object (`response_format: json_object`).
  static GrammarPart json_object();
  /// One after the other.
  static GrammarPart sequence(std::vector<GrammarPart> parts);
  /// One of them.
  static GrammarPart choice(std::vector<GrammarPart> parts);
  /// `part` from `min` to `max` times.
  static GrammarPart repeat(GrammarPart part, uint32_t min, uint32_t max);
  /// In place of `max`: no upper limit.
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  Kind kind = Kind::literal;
  std::string text;                // literal: its bytes; json: the schema
  int32_t id = 0;                  // token
  uint32_t min = 0, max = 0;       // repeat
  std::vector<GrammarPart> parts;  // sequence, choice, repeat (one)
};

struct Automaton;

/// The most that compiling a grammar can take, in steps of some 20 ns.
constexpr size_t kMaxGrammarWork = 6'000'000;

/// A compiled description: a pushdown automaton over bytes and special tokens, in which every state can reach the end.
/// Immutable; shared by any number of threads. Compiling takes milliseconds, and at most kMaxGrammarWork, a tenth of a
/// second, however large or intricate a schema is: what needs more is refused.
class Grammar {
 public:
  /// Throws Error "<where>: properties.x.not: not supported" where a schema asks for what cannot be guaranteed, is
  /// malformed, has no finite value, or is too large. `where` names the request's field in messages, such as
  /// "response_format.json_schema.schema". `work`, if not null, grows by what compiling took, also where that throws:
  /// it depends on `part` alone.
  Grammar(const GrammarPart& part, const std::string& where, size_t* work = nullptr);
  ~Grammar();
  Grammar(const Grammar&) = delete;
  Grammar& operator=(const Grammar&) = delete;

  const Automaton& automaton() const { return *automaton_; }
  /// For messages.
  const std::string& where() const { return where_; }

 private:
  const std::string where_;
  std::unique_ptr<const Automaton> automaton_;
};

}  // namespace sluice
