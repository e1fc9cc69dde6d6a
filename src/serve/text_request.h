// What every request for text has in common: which model, how tokens are chosen, where texts end, how they are sent.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/request.h"
#include "serve/fields.h"

namespace sluice {

/// Most texts that one request may ask for, over all of its prompts.
constexpr int64_t kMostTexts = 128;
constexpr size_t kMostStops = 16, kMostStopBytes = 1024;
constexpr size_t kMostUserBytes = 512;

struct TextRequest {
  std::string model;        // empty: the only one there is
  std::string user;         // who asks, for fairness among users
  GenerateOptions options;  // of the first text
  int64_t num_texts = 1;    // per prompt (`n`)
  std::vector<std::string> stops;
  bool stream = false;
  bool include_usage = false;  // in a stream: token counts at its end

  /// The options of text `index` of a prompt: its own seed, the first one's being the request's.
  GenerateOptions options_of(int64_t index) const;
};

/// Reads the common fields. `defaults` holds for what the request leaves open; without a seed one is drawn. Throws
/// ApiError for values out of range.
TextRequest parse_text_request(const Fields& body, const GenerateOptions& defaults);

}  // namespace sluice
