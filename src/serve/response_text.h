// The frame of responses and events, put together as text: what is in it may be large.
#pragma once
#include <string>

#include "serve/json_text.h"
#include "serve/response_writer.h"

namespace sluice {

/// `choices`: as JSON, with commas between, without the brackets. `usage`: as JSON; empty: none.
inline std::string response_text(const ResponseHead& head, const char* object, const std::string& choices,
                                 const std::string& usage) {
  std::string out = json_text({{"id", head.id},
                               {"object", object},
                               {"created", head.created},
                               {"model", head.model},
                               {"system_fingerprint", nullptr}});
  out.pop_back();
  out.append(R"(,"choices":[)").append(choices).append("]");
  if (!usage.empty()) out.append(R"(,"usage":)").append(usage);
  return out + "}";
}

/// One event of a stream, with `usage` where the request wants it.
inline std::string event_text(const ResponseHead& head, const char* object, const std::string& choices,
                              const std::string& usage) {
  return "data: " + response_text(head, object, choices, head.include_usage ? usage : "") + "\n\n";
}

}  // namespace sluice
