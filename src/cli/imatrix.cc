// sluice imatrix: how much each input of each matrix matters, measured on a text.
#include <algorithm>
#include <memory>
#include <unordered_map>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/inference.h"
#include "cli/work_line.h"
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

/// Feeds `ids`, and computes the logits of all of them, few at a time, for what enters the head.
void feed_all(Session& session, std::span<const int32_t> ids) {
  constexpr size_t kRows = 256;
  for (size_t at = 0; at < ids.size(); at += kRows) {
    const auto part = ids.subspan(at, std::min(kRows, ids.size() - at));
    session.feed(part, static_cast<int64_t>(part.size()));
  }
}

/// Reads the text in pieces of a context, each as a sequence of its own. Returns their number.
int64_t read_text(const Inference& inference, const std::vector<int32_t>& ids) {
  const Tokenizer& tokenizer = inference.need_tokenizer();
  const std::vector<int32_t> begin(tokenizer.add_bos() ? 1 : 0, tokenizer.bos_id());
  if (inference.engine->context() < 2) fail("--ctx: expected at least 2 tokens, found 1");
  const size_t most = static_cast<size_t>(inference.engine->context()) - begin.size();
  const std::unique_ptr<Session> session = open_session(inference, Draft::on);
  WorkLine line("imatrix", "tokens", static_cast<int64_t>(ids.size()));
  int64_t pieces = 0;
  for (size_t at = 0; at < ids.size(); at += most, ++pieces) {
    std::vector<int32_t> piece = begin;
    piece.insert(piece.end(), ids.begin() + static_cast<int64_t>(at),
                 ids.begin() + static_cast<int64_t>(std::min(ids.size(), at + most)));
    session->truncate(0);
    if (session->drafts() && piece.size() > 1) {  // the MTP module needs a token after each
      const int32_t last = piece.back();
      piece.pop_back();
      feed_all(*session, piece);
      session->draft(last);
    } else {
      feed_all(*session, piece);
    }
    line.add(static_cast<int64_t>(piece.size()));
  }
  return pieces;
}

void run_imatrix(const ImatrixOptions& o) {
  const Inference inference = open_inference(o.inference);
  std::vector<int32_t> ids;
  inference.need_tokenizer().encode(read_file(o.data), false, ids);
  if (ids.empty()) fail("{}: expected a text, found nothing", o.data);
  Collector collector(*inference.model);
  inference.engine->observe([&](const Tensor& x_TK, const Matrix& w) { collector.add(x_TK, w); });
  const int64_t pieces = read_text(inference, ids);
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
