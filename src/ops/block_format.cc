#include "ops/block_format.h"

#include <array>
#include <utility>

namespace sluice {
namespace {

constexpr std::array<std::pair<Format, const char*>, 15> kNames{{{Format::f32, "f32"},
                                                                 {Format::bf16, "bf16"},
                                                                 {Format::fp8_128, "fp8"},
                                                                 {Format::f16, "f16"},
                                                                 {Format::q4_0, "q4_0"},
                                                                 {Format::q4_1, "q4_1"},
                                                                 {Format::q5_0, "q5_0"},
                                                                 {Format::q5_1, "q5_1"},
                                                                 {Format::q8_0, "q8_0"},
                                                                 {Format::q2_k, "q2_k"},
                                                                 {Format::q3_k, "q3_k"},
                                                                 {Format::q4_k, "q4_k"},
                                                                 {Format::q5_k, "q5_k"},
                                                                 {Format::q6_k, "q6_k"},
                                                                 {Format::iq4_nl, "iq4_nl"}}};

}  // namespace

const char* format_name(Format format) {
  for (const auto& [f, name] : kNames)
    if (f == format) return name;
  return "?";
}

std::optional<Format> parse_format(std::string_view name) {
  for (const auto& [f, text] : kNames)
    if (name == text) return f;
  return std::nullopt;
}

}  // namespace sluice
