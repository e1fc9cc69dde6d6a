// Text that a model in training writes now and then.
#pragma once
#include <string>

#include "model/model.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

/// What the model writes after `prompt`: at most 100 tokens at temperature 0.8, the same for the same weights.
std::string write_sample(const Model& model, const Tokenizer& tokenizer, const std::string& prompt);

}  // namespace sluice
