#include "cli/sample.h"

#include "engine/generate.h"

namespace sluice {

std::string write_sample(const Model& model, const Tokenizer& tokenizer, const std::string& prompt) {
  constexpr int64_t kTokens = 100;
  Stream s(1);
  std::vector<int32_t> ids;
  if (tokenizer.add_bos()) ids.push_back(tokenizer.bos_id());
  tokenizer.encode(prompt, false, ids);
  EngineOptions engine_options;
  engine_options.context = static_cast<int64_t>(ids.size()) + kTokens + 1;
  Engine engine(s, model, engine_options);
  Session session(engine, false);
  GenerateOptions options;
  options.max_tokens = kTokens;
  options.rule.temperature = 0.8f;
  options.vocab_limit = tokenizer.vocab_size();
  options.draft = Draft::off;
  if (tokenizer.eos_id() != Tokenizer::kNone) options.stop_ids = {tokenizer.eos_id()};
  std::vector<int32_t> written;
  generate(session, ids, options, [&](int32_t id) {
    written.push_back(id);
    return true;
  });
  return tokenizer.decode(written, true);
}

}  // namespace sluice
