// A text read in pieces for what observers of the engine see.
#pragma once
#include <string>
#include <vector>

#include "cli/inference.h"

namespace sluice {

/// Reads the text in pieces of a context, each as a sequence of its own that begins with the tokenizer's begin token,
/// with the MTP module where there is one. Every product is computed, the head's for all tokens too. Draws a line of
/// progress that begins with `command`. Returns the number of pieces. Throws Error for a context of one token.
int64_t read_in_pieces(const Inference& inference, const std::vector<int32_t>& ids, const std::string& command);

}  // namespace sluice
