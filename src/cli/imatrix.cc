// sluice imatrix: how much each input of each matrix matters, measured on a text.
#include <algorithm>
#include <memory>
#include <unordered_map>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/inference.h"
#include "cli/text_pieces.h"
#include "convert/gguf_names.h"
#include "convert/importance.h"

namespace sluice {
namespace {

struct ImatrixOptions {
  InferenceOptions inference;
  std::string data, out;
};

/// Adds what enters every product to an Importance, by the names of GGUF tensors.
class Collector {
 public:
  explicit Collector(Model& model) : experts_(model.config.n_routed_experts) {
    for (const Param& p : parameters(model.weights)) places_.emplace(p.matrix->data, gguf_place(p.name));
  }
  void add(const Tensor& x_TK, const Matrix& w) {
    const GgufPlace& place = places_.at(w.data);
    importance_.add(place.tensor, place.expert.value_or(0), place.expert ? experts_ : 1, x_TK);
  }
  const Importance& importance() const { return importance_; }

 private:
  int64_t experts_;
  std::unordered_map<const void*, GgufPlace> places_;
  Importance importance_;
};

void run_imatrix(const ImatrixOptions& o) {
  const Inference inference = open_inference(o.inference);
  std::vector<int32_t> ids;
  inference.need_tokenizer().encode(read_file(o.data), false, ids);
  if (ids.empty()) fail("{}: expected a text, found nothing", o.data);
  Collector collector(*inference.model);
  inference.engine->observe([&](const Tensor& x_TK, const Matrix& w) { collector.add(x_TK, w); });
  const int64_t pieces = read_in_pieces(inference, ids, "imatrix");
  save_importance(o.out, collector.importance(), fs::path(o.data).filename().string(), inference.engine->context(),
                  pieces);
  int64_t missing = 0;
  for (const auto& [name, entry] : collector.importance().entries())
    missing += std::count(entry.counts.begin(), entry.counts.end(), 0.0f);
  fmt::print("{}: {} tensors from {} tokens\n", o.out, collector.importance().entries().size(), ids.size());
  if (missing)
    fmt::print(stderr, "{} matrices of experts got no token and count as evenly important: a longer text helps\n",
               missing);
}

}  // namespace

void add_imatrix_command(CLI::App& app) {
  auto o = std::make_shared<ImatrixOptions>();
  o->inference.context = 512;
  CLI::App* c = app.add_subcommand("imatrix", "Measure which inputs of a model's matrices matter, for quantize");
  add_inference_options(*c, o->inference);
  c->add_option("--data", o->data, "a text like those that the model will see")->required();
  c->add_option("--out", o->out, "file for quantize --imatrix, a GGUF file as other tools write it")->required();
  c->footer("Example: sluice imatrix --model out/demo --data data/demo/austen.txt --out demo.imatrix");
  c->callback([o] { run_imatrix(*o); });
}

}  // namespace sluice
