// The routed experts of a layer on rows that are sorted by expert:  y = (silu(x Wg') * (x Wu')) Wd' with the weights of
// each row's expert.  L rows, D model, F expert width.
#pragma once
#include "base/arena.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace sluice {

/// Weights, or their gradients, of the experts that rows go to.
struct ExpertBanks {
  ExpertBank gate, up, down;
};

struct ExpertsSaved {
  Tensor offsets;             // i32: where the rows of each expert begin
  Tensor x_LD, gu_L2F, h_LF;  // x is given with memory for gu (model/gate_up.h) and h = silu(g) u
  Tensor dy_LD, dgu_L2F;      // dy is given with memory for dgu
};

/// k.gu and k.h from k.x.
void experts_hidden(Stream& s, const ExpertBanks& w, const ExpertsSaved& k);
/// y_LD from k.x_LD.
void experts_forward(Stream& s, Tensor y_LD, const ExpertBanks& w, const ExpertsSaved& k);
/// dx_LD = gradient of x from k.dy_LD.
void experts_backward_input(Stream& s, Arena& a, Tensor dx_LD, const ExpertBanks& w, const ExpertsSaved& k);
/// grad (=|+=) gradients of the weights.
void experts_backward_weight(Stream& s, const ExpertBanks& grad, const ExpertBanks& w, const ExpertsSaved& k, Out out);

}  // namespace sluice
