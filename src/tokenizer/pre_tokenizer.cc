#include "tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {
namespace {

constexpr const char* kDigit = R"(\p{N})";
constexpr const char* kDigits = R"(\p{N}+)";
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr const char* kV3Numbers = R"(\p{N}{1,3})";
constexpr const char* kV3Cjk = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr const char* kV3Words =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

}  // namespace

std::vector<PreTokenizerStage> deepseek_v3_stages() {
  std::vector<PreTokenizerStage> stages(4);
  stages[0].pattern = kV3Numbers;
  stages[1].pattern = kV3Cjk;
  stages[2].pattern = kV3Words;
  stages[3].kind = PreTokenizerStage::Kind::byte_level;
  return stages;
}

PreTokenizer::PreTokenizer(const std::vector<PreTokenizerStage>& stages, const std::string& name) {
  const auto add = [&](const std::string& pattern, bool literal, size_t i) -> Stage& {
    Stage& stage = stages_.emplace_back();
    stage.regex.emplace_back(pattern, literal, fmt::format("{}: pre_tokenizer stage {}", name, i));
    return stage;
  };
  for (size_t i = 0; i < stages.size(); ++i) {
    const PreTokenizerStage& stage = stages[i];
    switch (stage.kind) {
      case PreTokenizerStage::Kind::split: {
        Stage& split = add(stage.pattern, stage.literal, i);
        split.behavior = stage.behavior;
        split.invert = stage.invert;
        break;
      }
      case PreTokenizerStage::Kind::digits:
        add(stage.individual_digits ? kDigit : kDigits, false, i);
        break;
      case PreTokenizerStage::Kind::byte_level:
        if (stage.add_prefix_space) stages_.emplace_back().prefix_space = true;
        if (stage.use_regex) add(kGpt2, false, i);
        break;
    }
  }
}

/// Matches joined to their neighbours as the stage's behaviour says; the same results as the `tokenizers` package.
std::vector<PreTokenizer::Range> PreTokenizer::joined_ranges(const Stage& stage, std::string_view text,
                                                             RegexScratch& scratch) {
  std::vector<Range> ranges, joined;
  each_range(stage, text, scratch, [&](const Range& r) { ranges.push_back(r); });
  const bool from_the_end = stage.behavior == SplitBehavior::merged_with_next;
  if (from_the_end) std::reverse(ranges.begin(), ranges.end());
  bool previous = false;
  for (const Range& r : ranges) {
    bool join = false;
    switch (stage.behavior) {
      case SplitBehavior::isolated:
        break;
      case SplitBehavior::removed:
        if (r.match) continue;
        break;
      case SplitBehavior::contiguous:
        join = r.match == previous;
        break;
      case SplitBehavior::merged_with_previous:
      case SplitBehavior::merged_with_next:
        join = r.match && !previous;
        break;
    }
    previous = r.match;
    if (!join || joined.empty()) {
      joined.push_back(r);
    } else {
      joined.back().begin = std::min(joined.back().begin, r.begin);
      joined.back().end = std::max(joined.back().end, r.end);
    }
  }
  if (from_the_end) std::reverse(joined.begin(), joined.end());
  return joined;
}

}  // namespace sluice
