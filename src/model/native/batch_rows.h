// What every update of a batch's rows begins with, on the CPU: the distinct ids, the sums of their
// gradients, and the wide weights. The formulas are those of ../optimizers.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "for_this_cpu.h"

namespace {

struct WideSettings {
  float learning_rate, l1, l2;
};
struct AdamSettings {
  WideSettings wide;
  float learning_rate, beta1, beta2, epsilon;
};

// The distinct ids of a batch, each with the list of its places in the batch, in their order.
class DistinctIds {
 public:
  DistinctIds(const int32_t *ids, int64_t count) : next_(count, kNone) {
    int bits = 4;
    while ((int64_t{1} << bits) < 2 * count) ++bits;
    std::vector<int32_t> slots(size_t{1} << bits, kNone);
    const uint32_t mask = (uint32_t{1} << bits) - 1;
    for (int64_t place = 0; place < count; ++place) {
      uint32_t slot = (static_cast<uint32_t>(ids[place]) * 2654435769u) >> (32 - bits);
      while (slots[slot] != kNone && ids[first[slots[slot]]] != ids[place]) slot = (slot + 1) & mask;
      if (slots[slot] == kNone) {
        slots[slot] = static_cast<int32_t>(first.size());
        first.push_back(static_cast<int32_t>(place));
        last_.push_back(static_cast<int32_t>(place));
      } else {
        int32_t &last = last_[slots[slot]];
        next_[last] = static_cast<int32_t>(place);
        last = static_cast<int32_t>(place);
      }
    }
  }

  int32_t After(int32_t place) const { return next_[place]; }

  static constexpr int32_t kNone = -1;
  std::vector<int32_t> first;  // of each distinct id

 private:
  std::vector<int32_t> next_, last_;
};

struct Wide {
  float *weight, *accumulator, *linear;
};

// The weight that a linear term and its root, √accumulator / learning rate, stand for.
inline float WideWeight(float linear, float root, const WideSettings &settings) {
  const float above = std::fabs(linear) - settings.l1;
  return above > 0 ? -std::copysign(above, linear) / (root + 2 * settings.l2) : 0.0f;
}

void MoveWide(const Wide &wide, int64_t id, float gradient, const WideSettings &settings) {
  const float old = wide.accumulator[id], squares = old + gradient * gradient;
  const float root = std::sqrt(squares) / settings.learning_rate;
  const float linear = wide.linear[id] + gradient -
                       wide.weight[id] * (root - std::sqrt(old) / settings.learning_rate);
  wide.weight[id] = WideWeight(linear, root, settings);
  wide.accumulator[id] = squares;
  wide.linear[id] = linear;
}

// Moves one number of the table by Adam.
inline void MoveNumber(float &number, float &m, float &v, float gradient, float step,
                       const AdamSettings &settings) {
  m = m * settings.beta1 + gradient * (1 - settings.beta1);
  v = v * settings.beta2 + gradient * gradient * (1 - settings.beta2);
  number -= step * (m / (std::sqrt(v) + settings.epsilon));
}

FOR_THIS_CPU void Add(float *sum, const float *values, int64_t count) {
  for (int64_t k = 0; k < count; ++k) sum[k] += values[k];
}

// Moves the wide weights, and calls move_row(id, gradient) for the table's row of each distinct id.
template <class MoveRow>
void LearnRows(const Wide &wide, const int32_t *ids, int64_t count, const float *wide_gradient,
               const float *table_gradient, int64_t width, const WideSettings &settings,
               int32_t *distinct_count, MoveRow move_row) {
  const DistinctIds distinct(ids, count);
  std::vector<float> sum(width);
  for (const int32_t first : distinct.first) {
    float wide_sum = wide_gradient[first];
    const float *gradient = table_gradient + first * width;
    int32_t place = distinct.After(first);
    if (place != DistinctIds::kNone) {
      std::memcpy(sum.data(), gradient, width * sizeof(float));
      gradient = sum.data();
    }
    for (; place != DistinctIds::kNone; place = distinct.After(place)) {
      wide_sum += wide_gradient[place];
      Add(sum.data(), table_gradient + place * width, width);
    }
    MoveWide(wide, ids[first], wide_sum, settings);
    move_row(ids[first], gradient);
  }
  *distinct_count = static_cast<int32_t>(distinct.first.size());
}

Wide WideOf(void **data) {
  return {static_cast<float *>(data[0]), static_cast<float *>(data[1]),
          static_cast<float *>(data[2])};
}

}  // namespace
