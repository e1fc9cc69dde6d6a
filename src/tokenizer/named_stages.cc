#include "tokenizer/named_stages.h"

#include <array>
#include <utility>

#include "tokenizer/pre_tokenizer.h"

namespace sluice {
namespace {

PreTokenizerStage split(std::string pattern) {
  PreTokenizerStage stage;
  stage.pattern = std::move(pattern);
  return stage;
}

PreTokenizerStage digits(bool individual) {
  PreTokenizerStage stage;
  stage.kind = PreTokenizerStage::Kind::digits;
  stage.individual_digits = individual;
  return stage;
}

PreTokenizerStage byte_level() {
  PreTokenizerStage stage;
  stage.kind = PreTokenizerStage::Kind::byte_level;
  return stage;
}

// Letters that have a case, as the released files of DeepSeek-LLM and V2 spell them out.
constexpr const char* kCasedLetters =
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943";
constexpr const char* kCjk = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

std::vector<PreTokenizerStage> deepseek_llm_stages() {
  return {split("[\r\n]"),
          split(std::string("\\s?[") + kCasedLetters + "]+"),
          split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
          split("\\s+$"),
          split(kCjk),
          digits(false),
          byte_level()};
}

std::vector<PreTokenizerStage> deepseek_coder_stages() {
  return {split("[\r\n]"), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"), split(kCjk), digits(true), byte_level()};
}

/// Words by case, with Han characters apart. Moonshot's own pattern excludes Han inside the classes (`&&[^\p{Han}]`),
/// which not every engine knows; a lookahead before each character says the same.
std::vector<PreTokenizerStage> kimi_k2_stages() {
  const std::string upper = R"((?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]))";
  const std::string lower = R"((?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}]))";
  const std::string lead = R"([^\r\n\p{L}\p{N}]?)", ending = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
  return {split(R"(\p{Han}+|)" + lead + upper + "*" + lower + "+" + ending + "|" + lead + upper + "+" + lower + "*" +
                ending + R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
          byte_level()};
}

/// Equal, but for whether digits are cut apart: the name says one thing, the released tokenizer.json of the same model
/// may say the other, and their vocabularies have no token of two digits in which it would show.
bool same_stages(std::vector<PreTokenizerStage> a, std::vector<PreTokenizerStage> b) {
  for (auto* stages : {&a, &b})
    for (PreTokenizerStage& stage : *stages) stage.individual_digits = false;
  return a == b;
}

struct Named {
  std::string_view name;
  std::vector<PreTokenizerStage> (*stages)();
};

constexpr std::array<Named, 4> kNamed = {{{"deepseek-v3", deepseek_v3_stages},
                                          {"deepseek-llm", deepseek_llm_stages},
                                          {"deepseek-coder", deepseek_coder_stages},
                                          {"kimi-k2", kimi_k2_stages}}};

}  // namespace

std::optional<std::vector<PreTokenizerStage>> named_stages(std::string_view name) {
  for (const Named& n : kNamed)
    if (n.name == name) return n.stages();
  return std::nullopt;
}

std::optional<std::string_view> name_of_stages(const std::vector<PreTokenizerStage>& stages) {
  for (const Named& n : kNamed)
    if (same_stages(n.stages(), stages)) return n.name;
  return std::nullopt;
}

std::string known_stage_names() {
  std::string list;
  for (const Named& n : kNamed) list.append(list.empty() ? "" : ", ").append(n.name);
  return list;
}

}  // namespace sluice
