// Tokens -> the tree of a chat template.
#pragma once
#include <set>
#include <string>
#include <string_view>

#include "chat/jinja_ast.h"

namespace sluice::jinja {

struct Tree {
  Statements statements;
  std::set<std::string, std::less<>> names;  // of variables that are read somewhere
};

/// Throws Error "<name>:<line>: ..." for anything that is malformed, too large, too deep or not supported.
Tree parse(std::string_view source, const std::string& name);

}  // namespace sluice::jinja
