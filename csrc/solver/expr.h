// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "fewstep/plan.h"

namespace fewstep::solver {

// Normals of one (stream, step) of every sample's seed.
struct Noise {
  uint32_t stream, step;
  bool operator==(const Noise&) const = default;
};

// A linear combination of a row's operands and noises. Solvers are written in these; everything
// that is linear (prediction conversion, guidance scale, composed steps) folds by itself.
class Expr {
 public:
  struct NoiseTerm {
    Noise noise;
    double factor;
  };

  Expr() = default;

  static Expr operand(int32_t code) {
    Expr e;
    e.factor_[static_cast<size_t>(code)] = 1;
    return e;
  }
  static Expr slot(int32_t index) { return operand(FEWSTEP_SLOT + index); }
  static Expr noise(Noise noise) {
    Expr e;
    e.noises_.push_back({noise, 1});
    return e;
  }

  double factor(int32_t code) const { return factor_[static_cast<size_t>(code)]; }
  const std::vector<NoiseTerm>& noises() const { return noises_; }

  Expr& operator+=(const Expr& other) {
    for (size_t i = 0; i < factor_.size(); ++i) factor_[i] += other.factor_[i];
    for (const NoiseTerm& term : other.noises_) {
      bool found = false;
      for (NoiseTerm& mine : noises_) {
        if (mine.noise == term.noise) {
          mine.factor += term.factor;
          found = true;
        }
      }
      if (!found) noises_.push_back(term);
    }
    return *this;
  }
  // Zero times anything is zero, so an unused branch never leaves 0 * inf behind.
  Expr& operator*=(double scale) {
    if (scale == 0) return *this = Expr();
    for (double& f : factor_) f *= scale;
    for (NoiseTerm& term : noises_) term.factor *= scale;
    return *this;
  }

  friend Expr operator+(Expr a, const Expr& b) { return a += b; }
  friend Expr operator*(double scale, Expr e) { return e *= scale; }
  friend Expr operator-(Expr a, const Expr& b) { return a += -1.0 * b; }

 private:
  std::array<double, FEWSTEP_OPERANDS> factor_{};
  std::vector<NoiseTerm> noises_;
};

// One output of a row, and what takes its place where a mask keeps the known image:
// known * K + known_noise.
struct Output {
  int32_t operand;
  fewstep_role role;
  Expr value;
  bool blend = false;
  double known = 0;
  Expr known_noise = {};
  bool lasting = false;  // for the caller: stays though no row reads it
};

// Writes the outputs into the row's arrays: assigns inputs and noise columns in the order of the
// operands, leaves out zero coefficients. Throws when a limit of the row is exceeded.
void assemble(const std::vector<Output>& outputs, fewstep_plan_row* row);

}  // namespace fewstep::solver
