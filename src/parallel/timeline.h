// What ran when on which rank, simulated or measured, and two pictures of it.
#pragma once
#include <string>
#include <vector>

#include "parallel/schedule.h"

namespace sluice {

struct Span {
  Action action;
  double begin, end;  // seconds from the begin of the step
  // Of a phase of a pass (parallel/phases.h): its place in the pass, whose action is F, B or Bi; else -1.
  int phase = -1;
  bool is_paired = false;  // by turns with another pass
};

struct Timeline {
  std::vector<std::vector<Span>> ranks;  // of each rank in order, not overlapping
};

/// "F3a" or, of its third phase, "F3a.2".
std::string span_name(const Span& span);

/// From the begin of the step to the end of the last action; 0 without actions.
double total_seconds(const Timeline& timeline);

/// What of it a rank did not compute.
double bubble_seconds(const Timeline& timeline, int rank);

/// What of it the rank waited between the phases of a pass, or of a pair: for transfers within its stages. A pass waits
/// for its input before its first phase.
double exposed_seconds(const Timeline& timeline, int rank);

/// The trace-event format that chrome://tracing and ui.perfetto.dev open: one thread per rank.
std::string chrome_trace(const Timeline& timeline);

/// A picture with a row per rank, at most 4,000 pixels wide: forwards blue, backwards green, input and weight
/// gradients in lighter greens, the two halves of an overlapped pair above each other; its phases as they took turns.
std::string timeline_svg(const Timeline& timeline);

}  // namespace sluice
