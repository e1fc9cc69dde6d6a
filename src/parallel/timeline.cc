#include "parallel/timeline.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

std::string span_name(const Span& s) {
  return s.phase < 0 ? action_name(s.action) : fmt::format("{}.{}", action_name(s.action), s.phase);
}

double total_seconds(const Timeline& timeline) {
  double end = 0;
  for (const auto& spans : timeline.ranks)
    for (const Span& s : spans) end = std::max(end, s.end);
  return end;
}

double bubble_seconds(const Timeline& timeline, int rank) {
  double bubble = total_seconds(timeline);
  for (const Span& s : timeline.ranks[static_cast<size_t>(rank)]) bubble -= s.end - s.begin;
  return bubble;
}

double exposed_seconds(const Timeline& timeline, int rank) {
  const std::vector<Span>& spans = timeline.ranks[static_cast<size_t>(rank)];
  double exposed = 0;
  for (size_t i = 1; i < spans.size(); ++i)
    if (spans[i].phase > 0) exposed += spans[i].begin - spans[i - 1].end;
  return exposed;
}

std::string chrome_trace(const Timeline& timeline) {
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  auto append = [&, first = true](const std::string& event) mutable {
    if (!first) out += ",\n";
    first = false;
    out += event;
  };
  for (size_t rank = 0; rank < timeline.ranks.size(); ++rank) {
    append(fmt::format(R"({{"name":"thread_name","ph":"M","pid":0,"tid":{0},"args":{{"name":"rank {0}"}}}})", rank));
    for (const Span& s : timeline.ranks[rank])
      append(fmt::format(R"({{"name":"{}","ph":"X","ts":{:.3f},"dur":{:.3f},"pid":0,"tid":{}}})", span_name(s),
                         s.begin * 1e6, (s.end - s.begin) * 1e6, rank));
  }
  return out + "]}\n";
}

}  // namespace sluice
