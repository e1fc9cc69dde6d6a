// The stages that cut text into pieces, within which BPE merges (specification 7.2).
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer_json.h"
#include "tokenizer/regex.h"

namespace sluice {

/// DeepSeek-V3's four stages.
std::vector<PreTokenizerStage> deepseek_v3_stages();

/// The compiled stages; immutable.
class PreTokenizer {
 public:
  /// Throws Error "<name>: pre_tokenizer: ..." when a regex does not compile.
  PreTokenizer(const std::vector<PreTokenizerStage>& stages, const std::string& name);

  /// Calls piece(std::string_view) for every piece of `text` (valid UTF-8) in order. A view is valid during the call.
  template <class F>
  void split(std::string_view text, RegexScratch& scratch, F&& piece) const {
    run(0, text, scratch, piece);
  }

 private:
  struct Stage {
    bool prefix_space = false;  // puts a space before the piece; otherwise splits:
    std::vector<Regex> regex;   // one, unless prefix_space
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;
  };
  struct Range {
    size_t begin, end;
    bool match;
  };

  /// Every match and every gap, in order; a match may be empty.
  template <class F>
  static void each_range(const Stage& stage, std::string_view text, RegexScratch& scratch, F&& range);
  static std::vector<Range> joined_ranges(const Stage& stage, std::string_view text, RegexScratch& scratch);
  template <class F>
  void run(size_t index, std::string_view text, RegexScratch& scratch, F& piece) const;

  std::vector<Stage> stages_;
};

template <class F>
void PreTokenizer::each_range(const Stage& stage, std::string_view text, RegexScratch& scratch, F&& range) {
  size_t done = 0, from = 0, begin = 0, end = 0;
  while (from <= text.size() && stage.regex[0].find(text, from, scratch, begin, end)) {
    if (begin > done) range(Range{done, begin, stage.invert});
    range(Range{begin, end, !stage.invert});
    done = end;
    // After an empty match the search goes on one character later.
    from = end > begin ? end : end + 1;
    while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
  }
  if (done < text.size()) range(Range{done, text.size(), stage.invert});
}

template <class F>
void PreTokenizer::run(size_t index, std::string_view text, RegexScratch& scratch, F& piece) const {
  if (text.empty()) return;
  if (index == stages_.size()) return piece(text);
  const Stage& stage = stages_[index];
  const auto next = [&](const Range& r) { run(index + 1, text.substr(r.begin, r.end - r.begin), scratch, piece); };
  if (stage.prefix_space) {
    if (text.front() == ' ') return run(index + 1, text, scratch, piece);
    const std::string prefixed = " " + std::string(text);
    run(index + 1, prefixed, scratch, piece);
  } else if (stage.behavior == SplitBehavior::isolated) {
    each_range(stage, text, scratch, next);
  } else {
    for (const Range& r : joined_ranges(stage, text, scratch)) next(r);
  }
}

}  // namespace sluice
