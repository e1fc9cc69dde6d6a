// Whether drafting pays, by measurement: the text does not depend on it, so time alone decides.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace sluice {

/// Most tokens drafted for one pass.
constexpr int64_t kMostDrafts = 3;

/// Decides before every pass whether to draft, from how long the passes before it took and how many tokens they gave.
/// A pass of n rows is taken to cost the median of the last few of n rows, so that a pass the system interrupted
/// decides nothing. Drafting is tried after a few plain passes and given up as soon as it has lost the time of two
/// plain passes since then, or of six since its best moment: with less patience a few wrong drafts in a row, which are
/// only to be expected, would end what pays. It is tried again when the plain passes since then have taken 128 times
/// what that has cost. So drafting that does not pay costs less than 1% and about three passes once.
class DraftSwitch {
 public:
  /// Whether to draft in the next pass.
  bool on() const { return on_ && since_plain_ < kRefresh; }
  /// Whether drafting was tried and is off because it was slower.
  bool slower() const { return tried_ && !on_; }
  /// A pass over `rows` rows (1: nothing was drafted; at most 1 + kMostDrafts) gave `tokens` and took `seconds`, with
  /// all it took to draft.
  void add(int64_t rows, int64_t tokens, double seconds);

 private:
  /// The last few times of one kind of pass.
  class Times {
   public:
    void add(double seconds) { last_[count_++ % kKept] = seconds; }
    size_t count() const { return count_; }
    double median() const;  // the lower one; count() > 0

   private:
    static constexpr size_t kKept = 5;
    std::array<double, kKept> last_{};
    size_t count_ = 0;
  };

  void add_plain(double seconds);
  void add_drafted(int64_t rows, int64_t tokens, double seconds);

  static constexpr size_t kFirstPlain = 3;  // passes before drafting is tried
  static constexpr int64_t kRefresh = 64;   // drafted passes after which a plain one is timed again
  static constexpr double kRareness = 128;
  static constexpr double kPatience = 2, kMostCredit = 4;  // in plain passes

  std::array<Times, 2 + kMostDrafts> times_;           // by rows
  std::array<double, 2 + kMostDrafts> first_saved_{};  // by rows: seconds its first pass saved
  bool on_ = false, tried_ = false;
  bool warm_ = false;        // a plain pass was made
  bool catching_up_ = true;  // the next drafted pass is the first after plain ones: it makes up for them
  int64_t since_plain_ = 0;  // drafted passes
  double balance_ = 0;       // seconds won by drafting, at most kMostCredit plain passes
  double spent_ = 0;         // seconds lost by drafting since its best moment
  double waited_ = 0;        // seconds of plain passes since drafting was given up
};

}  // namespace sluice
