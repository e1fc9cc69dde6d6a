// From the contract of an op to the kernel of the stream's device.
#pragma once
#include <string>
#include <string_view>
#include <utility>

#include "base/config.h"
#include "base/op_times.h"
#include "base/stream.h"
#include "ops/matrix.h"

namespace sluice {

/// The name of a kernel without its namespaces.
template <auto Kernel>
constexpr std::string_view op_name() {
  constexpr std::string_view text = __PRETTY_FUNCTION__;  // "... Kernel = sluice::cpu::name; ..." or "...]"
  constexpr std::string_view kFolder = "cpu::";
  constexpr size_t begin = text.find(kFolder) + kFolder.size();
  return text.substr(begin, text.find_first_of(";)]", begin) - begin);
}

inline void add_sizes(std::string& text, const Tensor& t) {
  if (t) text += fmt::format(" {}x{}", t.rows(), t.cols());
}
inline void add_sizes(std::string& text, const Matrix& m) { text += fmt::format(" [{}x{}]", m.rows, m.cols); }
inline void add_sizes(std::string& text, ExpertBank bank) {
  text += fmt::format(" {} of [{}x{}]", bank.size(), bank[0].rows, bank[0].cols);
}
template <class T>
void add_sizes(std::string&, const T&) {}

/// Notes the time from its construction to its end, where the stream has a place for it.
class OpTimer {
 public:
  template <class First, class... Rest>
  OpTimer(Stream& s, std::string_view op, const First& first, const Rest&... rest) : s_(s) {
    if (!s.times()) return;
    name_ = op;
    add_sizes(name_, first);  // what is written, and the weights
    ((std::is_same_v<Rest, Tensor> ? void() : add_sizes(name_, rest)), ...);
    begin_ = OpTimes::now(s);
  }
  ~OpTimer() {
    if (s_.times()) s_.times()->add(std::move(name_), std::move(begin_), OpTimes::now(s_));
  }
  OpTimer(const OpTimer&) = delete;

 private:
  Stream& s_;
  std::string name_;
  Moment begin_;
};

/// Calls the kernel of the stream's device; nothing on a dry stream. Builds without CUDA never refer to `Cuda`.
template <auto Cpu, auto Cuda, class... Args>
void dispatch(Stream& s, Args&&... args) {
  if (s.is_dry()) return;
  const OpTimer timer(s, op_name<Cpu>(), args...);
  if constexpr (kHasCuda)
    if (s.is_cuda()) return Cuda(s, std::forward<Args>(args)...);
  Cpu(s, std::forward<Args>(args)...);
}

}  // namespace sluice
