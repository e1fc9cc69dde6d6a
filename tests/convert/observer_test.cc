// What the engine shows of the rows that enter its products.
#include <map>

#include "engine/session.h"
#include "model/tiny_model.h"

namespace sluice {
namespace {

struct Seen {
  int64_t rows = 0;
  double squares = 0;
};

TEST(Observer, SeesTheRowsOfEveryMatrix) {
  Stream s(2);
  HfConfig c = test::tiny_config();
  Model m = test::random_model(s, c, 1);
  Engine engine(s, m, {64, 0});
  std::map<const void*, Seen> seen;
  engine.observe([&](const Tensor& x_TK, const Matrix& w) {
    EXPECT_EQ(x_TK.cols(), w.cols);
    Seen& entry = seen[w.data];
    entry.rows += x_TK.rows();
    for (int64_t t = 0; t < x_TK.rows(); ++t)
      for (int64_t i = 0; i < x_TK.cols(); ++i) {
        const double x = static_cast<const float*>(x_TK.at(t))[i];
        entry.squares += x * x;
      }
  });
  const std::vector<int32_t> ids{1, 5, 9, 2, 28, 0, 7};
  const auto T = static_cast<int64_t>(ids.size());
  Session session(engine, true);
  session.feed(ids, 3);
  session.draft(4);

  int64_t expert_rows = 0;
  for (const Param& p : parameters(m.weights)) {
    const auto it = seen.find(p.matrix->data);
    const bool is_product = p.kind == ParamKind::linear || p.kind == ParamKind::head || p.kind == ParamKind::eh_proj ||
                            p.kind == ParamKind::router;
    if (p.name.find(".experts.") != std::string::npos) {
      expert_rows += it == seen.end() ? 0 : it->second.rows;
    } else if (!is_product || p.name.ends_with("kv_b_proj.weight")) {
      EXPECT_EQ(it, seen.end()) << p.name;
    } else {
      ASSERT_NE(it, seen.end()) << p.name;
      EXPECT_EQ(it->second.rows, p.kind == ParamKind::head ? 3 + 1 : T) << p.name;
    }
  }
  EXPECT_EQ(expert_rows, 3 * 3 * T * c.num_experts_per_tok);  // three matrices in two layers and the MTP block
  const Seen gate = seen.at(m.weights.layers[0].dense.gate.data), up = seen.at(m.weights.layers[0].dense.up.data);
  EXPECT_EQ(gate.squares, up.squares);
  double norm = 0;  // what a norm leaves: the squares of its weight, but for eps
  for (int64_t i = 0; i < c.hidden_size; ++i) norm += std::pow(m.weights.layers[0].ffn_norm.tensor().f32()[i], 2);
  EXPECT_GT(gate.squares, 0.2 * norm * static_cast<double>(T));
  EXPECT_LT(gate.squares, 5 * norm * static_cast<double>(T));
}

TEST(Observer, SeesTheChoicesOfEveryLayer) {
  Stream s(2);
  const HfConfig c = test::tiny_config();
  Model m = test::random_model(s, c, 1);
  Engine engine(s, m, {64, 0});
  std::vector<const void*> layers;
  std::map<const void*, std::vector<int64_t>> rows_of;  // by the router's weights, of every expert
  engine.observe_routing([&](const Tensor& choice_TK, const Matrix& router) {
    layers.push_back(router.data);
    EXPECT_EQ(choice_TK.cols(), c.num_experts_per_tok);
    std::vector<int64_t>& rows = rows_of[router.data];
    rows.resize(static_cast<size_t>(c.n_routed_experts));
    for (int64_t i = 0; i < choice_TK.size(); ++i) ++rows.at(static_cast<size_t>(choice_TK.ptr<int32_t>()[i]));
  });
  std::map<const void*, int64_t> products;  // rows that entered each expert
  engine.observe([&](const Tensor& x_TK, const Matrix& w) { products[w.data] += x_TK.rows(); });
  const std::vector<int32_t> ids{1, 5, 9, 2, 28, 0, 7};
  Session session(engine, true);
  session.feed(ids, 0);
  session.draft(4);

  const std::vector<const BlockWeights*> blocks{&m.weights.layers[1], &m.weights.layers[2], &m.weights.mtp[0].block};
  ASSERT_EQ(layers.size(), blocks.size());
  for (size_t l = 0; l < blocks.size(); ++l) {
    const MoeWeights& moe = blocks[l]->moe;
    EXPECT_EQ(layers[l], moe.router.data);
    for (size_t e = 0; e < moe.gate.size(); ++e)
      EXPECT_EQ(rows_of[layers[l]][e], products[moe.gate[e].data]) << l << " " << e;
  }
  engine.observe_routing({});
  session.feed(ids, 0);
  EXPECT_EQ(layers.size(), blocks.size());
}

}  // namespace
}  // namespace sluice
