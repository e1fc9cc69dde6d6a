#include "chat/jinja.h"

#include <utility>

#include "base/error.h"
#include "chat/jinja_interpreter.h"
#include "chat/jinja_parser.h"

namespace sluice {

struct ChatTemplate::Impl {
  std::string name;
  jinja::Tree tree;
};

ChatTemplate::ChatTemplate(std::string_view source, std::string name) {
  jinja::Tree tree = jinja::parse(source, name);
  impl_ = std::make_unique<const Impl>(Impl{std::move(name), std::move(tree)});
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&& other) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&& other) noexcept = default;

std::string ChatTemplate::render(const OrderedJson& context, int64_t now) const {
  check(context.is_object(), "ChatTemplate: expected variables by name");
  jinja::Meter meter(impl_->name, now);
  return jinja::render(impl_->tree, jinja::from_json(meter, context), meter);
}

bool ChatTemplate::reads(std::string_view variable) const { return impl_->tree.names.contains(variable); }

}  // namespace sluice
