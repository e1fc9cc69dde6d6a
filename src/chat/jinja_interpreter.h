// Renders the tree of a chat template.
#pragma once
#include <string>

#include "chat/jinja_parser.h"
#include "chat/jinja_value.h"

namespace sluice::jinja {

/// The text of `tree` for the variables in `context`, a mapping. Throws Error "<template>:<line>: ...".
std::string render(const Tree& tree, const Value& context, Meter& meter);

}  // namespace sluice::jinja
