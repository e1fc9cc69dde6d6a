// Chat templates: the bounded subset of Jinja that the templates of public checkpoints use.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "formats/json.h"

namespace sluice {

/// A model's own chat template, as `chat_template` in tokenizer_config.json has it: Jinja with trim_blocks and
/// lstrip_blocks on, as transformers renders it. Understood are
/// - {{ }}, {# #}, white-space control, and the tags if, for (with else, filter, break, continue), set (also of a
///   namespace's attribute, of several names, and of a block), macro, generation;
/// - all expressions;
/// - the filters, tests, methods and functions that jinja_builtins.h names.
/// Anything else is an Error when the template is read. Templates are untrusted: their size and depth, the steps that
/// one rendering takes and the bytes that it makes are bounded (jinja_limits.h).
///
/// Immutable; render() may be called from several threads at once.
class ChatTemplate {
 public:
  /// Throws Error "<name>:<line>: ..." for what is malformed or not in the subset.
  explicit ChatTemplate(std::string_view source, std::string name = "chat_template");
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&& other) noexcept;
  ChatTemplate& operator=(ChatTemplate&& other) noexcept;

  /// The text for the variables in `context`, an object nested at most 64 deep. `now` is the time that the function
  /// strftime_now shows: seconds since 1970, shown in UTC. Throws Error "<name>:<line>: ..." where the template does
  /// something that Jinja refuses (raise_exception included, with its message), or exceeds a bound.
  std::string render(const OrderedJson& context, int64_t now = 0) const;

  /// Whether the template reads a variable of this name that it has not made itself: "tools", "thinking".
  bool reads(std::string_view variable) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace sluice
