// SPDX-License-Identifier: Apache-2.0
// FlowTurbo (Zhao et al. 2024, arXiv 2409.18128, section 3): a step is a block, named by a letter.
//   H  Heun's method, two calls
//   P  pseudo corrector: Heun's method whose first slope is the last one of the block before, so
//   one
//      call; the first block of all makes both
//   R  refiner: Heun's method with a light network that tells the change of the velocity since the
//      start of the block before (after P: since its end)
#include <cctype>
#include <string>

#include "core/status.h"
#include "solver/generate.h"

namespace fewstep::solver {
namespace {

constexpr int kStart = 1;     // the sample at the start of a step
constexpr int kVelocity = 2;  // what R refines and P begins with

[[noreturn]] void refuse(const std::string& must, const std::string& got) {
  throw Error(FEWSTEP_INVALID_ARGUMENT,
              format("fewstep_plan_create: 'variant' must %s for flowturbo, got \"%s\"",
                     must.c_str(), got.c_str()));
}

// "H1P5R3" and "HPPPPPRRR" are the same. Without a text: one H, then P.
std::string blocks_of(const std::string& text, int steps) {
  std::string blocks;
  for (size_t i = 0; i < text.size();) {
    const char kind = text[i++];
    if (kind != 'H' && kind != 'P' && kind != 'R') refuse("be letters H, P, R and counts", text);
    if (kind == 'R' && blocks.empty()) refuse("not begin with R, which refines a velocity", text);
    size_t count = 0;
    const size_t digits = i;
    while (i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]))) {
      count = count * 10 + static_cast<size_t>(text[i++] - '0');
      if (count > static_cast<size_t>(steps)) break;
    }
    blocks.append(i == digits ? 1 : count, kind);
  }
  if (text.empty()) blocks = "H" + std::string(static_cast<size_t>(steps - 1), 'P');
  if (blocks.size() != static_cast<size_t>(steps)) {
    refuse(format("name %d blocks, one a step,", steps), text);
  }
  return blocks;
}

class Blocks {
 public:
  Blocks(Generator* g, std::string kinds) : g_(g), kinds_(std::move(kinds)) {}

  void add() {
    for (int i = g_->first(); i < g_->steps(); ++i) {
      const bool ends = g_->node(i + 1).sigma == 0;  // no second call there
      if (!ahead_) add_start(i, ends);
      if (!ends) add_end(i);
    }
  }

 private:
  char kind(int i) const { return kinds_[static_cast<size_t>(i - g_->first())]; }
  double width(int i) const { return g_->node(i + 1).sigma - g_->node(i).sigma; }

  Expr velocity(const Node& at, char kind) const {
    Expr v = g_->quantities(at).velocity;
    if (kind == 'R') v += Expr::slot(kVelocity);
    return v;
  }

  Place place(int i, const Node& at, const Node& from, const Node& next, char kind) const {
    // What a refiner returns is no velocity: nothing can be claimed of its rows.
    const int order = kind == 'R' ? 0 : 1;
    return {i, at, from, next, FEWSTEP_FRAME_VELOCITY, FEWSTEP_VARIABLE_SIGMA, order, 0};
  }

  static Output keep_velocity(const Expr& v) {
    return {FEWSTEP_SLOT + kVelocity, FEWSTEP_ROLE_HISTORY, v};
  }

  // The call at the sample itself: slot 0 becomes the predictor.
  void add_start(int i, bool ends) {
    const Node &from = g_->node(i), &to = g_->node(i + 1);
    const Expr v = velocity(from, kind(i));
    std::vector<Output> kept;
    if (!ends) {
      kept.push_back({FEWSTEP_SLOT + kStart, FEWSTEP_ROLE_ANCHOR, Expr::slot(0)});
      kept.push_back(keep_velocity(v));
    }
    g_->add(place(i, from, from, to, kind(i)), Expr::slot(0) + width(i) * v, std::move(kept));
  }

  // The call at the predictor: the corrected sample or, before a P block, already its predictor.
  void add_end(int i) {
    const Node &from = g_->node(i), &to = g_->node(i + 1);
    const Expr v = velocity(to, kind(i));
    const Expr corrected = Expr::slot(kStart) + 0.5 * width(i) * (Expr::slot(kVelocity) + v);
    ahead_ = i + 1 < g_->steps() && kind(i + 1) == 'P' && g_->node(i + 2).sigma != 0;
    if (ahead_) {
      Output start{FEWSTEP_SLOT + kStart, FEWSTEP_ROLE_ANCHOR, corrected};
      start.blend = true;
      g_->add(place(i, to, from, g_->node(i + 2), kind(i)), corrected + width(i + 1) * v,
              {start, keep_velocity(v)});
      return;
    }
    std::vector<Output> kept;
    if (kind(i) == 'P') kept.push_back(keep_velocity(v));
    g_->add(place(i, to, from, to, kind(i)), corrected, std::move(kept));
  }

  Generator* g_;
  std::string kinds_;
  bool ahead_ = false;  // slot 0 stands at the predictor of the step
};

}  // namespace

void flowturbo(Generator* g) {
  Blocks(g, blocks_of(g->settings().variant, g->steps() - g->first())).add();
}

}  // namespace fewstep::solver
