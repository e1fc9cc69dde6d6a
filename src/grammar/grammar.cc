#include "grammar/grammar.h"

#include <utility>

#include "base/error.h"
#include "grammar/automaton.h"
#include "grammar/compile_work.h"
#include "grammar/json_schema.h"
#include "grammar/json_text.h"

namespace sluice {
namespace {

constexpr size_t kSizeWork = 2;  // of a state or an edge
static_assert(kMaxGrammarWork > kMaxCompileWork + kSizeWork * AutomatonBuilder::kMaxSize);

class GrammarBuilder {
 public:
  explicit GrammarBuilder(const std::string& where) : net_(where), json_(net_) {}

  Automaton build(const GrammarPart& part) {
    const Rule main = net_.add_rule();
    add(part, main.start, main.end);
    return net_.finish(main);
  }
  size_t work() const { return work_ + kSizeWork * net_.size(); }

 private:
  void add(const GrammarPart& part, uint32_t from, uint32_t to) {
    switch (part.kind) {
      case GrammarPart::Kind::literal:
        return net_.literal(from, part.text, to);
      case GrammarPart::Kind::token:
        return net_.token(from, part.id, to);
      case GrammarPart::Kind::free_text:
        return add_free_text(from, to);
      case GrammarPart::Kind::json:
        return net_.call(from, add_json(part.text), to);
      case GrammarPart::Kind::json_object:
        return net_.call(from, json_.any_object(), to);
      case GrammarPart::Kind::sequence:
        for (const GrammarPart& one : part.parts) from = add_behind(one, from);
        return net_.empty(from, to);
      case GrammarPart::Kind::choice:
        for (const GrammarPart& one : part.parts) add(one, from, to);
        return;
      case GrammarPart::Kind::repeat:
        return add_repeat(part, from, to);
    }
  }

  uint32_t add_behind(const GrammarPart& part, uint32_t from) {
    const uint32_t to = net_.add_state();
    add(part, from, to);
    return to;
  }

  void add_free_text(uint32_t from, uint32_t to) {
    const uint32_t loop = net_.add_state();
    net_.empty(from, loop);
    net_.byte(loop, 0, 0x7F, loop);
    json_.wide_character(loop, loop);
    net_.empty(loop, to);
  }

  void add_repeat(const GrammarPart& part, uint32_t from, uint32_t to) {
    for (uint32_t i = 0; i < part.min; ++i) from = add_behind(part.parts[0], from);
    if (part.max == GrammarPart::kUnbounded) {
      const uint32_t loop = net_.add_state();
      net_.empty(from, loop);
      net_.empty(add_behind(part.parts[0], loop), loop);
      from = loop;
    }
    for (uint32_t i = part.min; part.max != GrammarPart::kUnbounded && i < part.max; ++i) {
      net_.empty(from, to);
      from = add_behind(part.parts[0], from);
    }
    net_.empty(from, to);
  }

  /// Tools that are chosen among stand in a grammar several times.
  Rule add_json(const std::string& schema) {
    const auto [it, is_new] = rules_.try_emplace(schema);
    if (is_new) it->second = SchemaCompiler(net_, json_, schema, net_.where(), work_).compile();
    return it->second;
  }

  AutomatonBuilder net_;
  JsonText json_;
  std::unordered_map<std::string, Rule> rules_;
  size_t work_ = 0;
};

}  // namespace

GrammarPart GrammarPart::literal(std::string bytes) {
  GrammarPart part;
  part.kind = Kind::literal;
  part.text = std::move(bytes);
  return part;
}

GrammarPart GrammarPart::token(int32_t id) {
  GrammarPart part;
  part.kind = Kind::token;
  part.id = id;
  return part;
}

GrammarPart GrammarPart::free_text() {
  GrammarPart part;
  part.kind = Kind::free_text;
  return part;
}

GrammarPart GrammarPart::json(std::string schema) {
  GrammarPart part;
  part.kind = Kind::json;
  part.text = std::move(schema);
  return part;
}

GrammarPart GrammarPart::json_object() {
  GrammarPart part;
  part.kind = Kind::json_object;
  return part;
}

GrammarPart GrammarPart::sequence(std::vector<GrammarPart> parts) {
  GrammarPart part;
  part.kind = Kind::sequence;
  part.parts = std::move(parts);
  return part;
}

GrammarPart GrammarPart::choice(std::vector<GrammarPart> parts) {
  GrammarPart part;
  part.kind = Kind::choice;
  part.parts = std::move(parts);
  return part;
}

GrammarPart GrammarPart::repeat(GrammarPart part, uint32_t min, uint32_t max) {
  GrammarPart out;
  out.kind = Kind::repeat;
  out.parts.push_back(std::move(part));
  out.min = min;
  out.max = max;
  return out;
}

Grammar::Grammar(const GrammarPart& part, const std::string& where, size_t* work) : where_(where) {
  GrammarBuilder builder(where);
  const auto count = [&] {
    if (work) *work += builder.work();
  };
  try {
    automaton_ = std::make_unique<const Automaton>(builder.build(part));
  } catch (...) {
    count();
    throw;
  }
  count();
}

Grammar::~Grammar() = default;

}  // namespace sluice
