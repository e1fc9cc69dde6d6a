// How many tokens of prompts go into a pass, so that texts do not wait long for their next token, nor a new request for
// the next pass: as many as are measured to take a given time.
#pragma once
#include <algorithm>
#include <cstdint>

namespace sluice {

class PromptPace {
 public:
  /// `seconds` that prompts may add to a pass of texts; kAlone times as long where there are none. At most `most`
  /// tokens.
  PromptPace(double seconds, int64_t most) : seconds_(seconds), most_(most) {}

  int64_t tokens(bool beside_texts) const {
    const double fit = per_token_ > 0 ? seconds_ / per_token_ : static_cast<double>(kFirst);
    return std::min(most_, static_cast<int64_t>(std::clamp(fit * (beside_texts ? 1 : kAlone), double{kLeast}, 1e9)));
  }

  /// A pass of so many rows of texts and of prompts took `seconds`.
  void add(int64_t text_rows, int64_t prompt_rows, double seconds) {
    if (prompt_rows == 0) {
      text_seconds_ = smooth(text_seconds_, seconds);
    } else if (prompt_rows >= kLeast) {
      // What is left after the texts' usual time, which a pass without texts does not have.
      const double alone = std::max(seconds - (text_rows > 0 ? text_seconds_ : 0), seconds * kLeastShare);
      per_token_ = smooth(per_token_, alone / static_cast<double>(prompt_rows));
    }
  }

 private:
  static double smooth(double mean, double value) { return mean > 0 ? .7 * mean + .3 * value : value; }

  static constexpr int64_t kFirst = 64, kLeast = 16, kAlone = 5;
  static constexpr double kLeastShare = .1;
  double seconds_;
  int64_t most_;
  double text_seconds_ = 0, per_token_ = 0;
};

}  // namespace sluice
