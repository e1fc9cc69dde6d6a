// How long the ops of a stream take, by kind: where the time of a step goes.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/stream.h"

namespace sluice {

/// A point in a stream: of the clock on the CPU, in the order of the kernels on a GPU.
struct Moment {
  double seconds = 0;
  std::shared_ptr<const void> mark{};  // of a GPU
};

/// Collects the times of a stream's ops from Stream::set_times() on.
class OpTimes {
 public:
  struct Kind {
    std::string name;  // of the op, with the sizes of what it works on
    int64_t calls = 0;
    double seconds = 0;
  };

  /// The moment before or after an op.
  static Moment now(Stream& s);
  void add(std::string name, Moment begin, Moment end) {
    spans_.push_back({std::move(name), std::move(begin), std::move(end)});
  }
  /// Waits for the stream. The kinds so far, the longest first.
  std::vector<Kind> kinds(Stream& s) const;

 private:
  struct Span {
    std::string name;
    Moment begin, end;
  };
  std::vector<Span> spans_;
};

}  // namespace sluice
