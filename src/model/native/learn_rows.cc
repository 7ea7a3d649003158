// The sparse update of the wide weights and of the embedding table on the CPU, as custom operators
// of MindSpore. Each moves the rows of a batch's ids in place, in one pass over the distinct ids.
//
// They do what TrainStepWrap.update in ../train_step.py does with the classes of ../optimizers.py,
// whose formulas are not repeated here. The operators there take some forty kernels for it. The
// gradients of equal ids are summed up in the order of the batch.
//
// Inputs:  wide_weight, wide_accumulator and wide_linear, float[v, 1]; table float[v, e] and its
//          state: accumulator float[v, 1] for Adagrad, m and v float[v, e] for Adam; ids int[n];
//          wide_gradient float[n, 1]; table_gradient float[n, e]; for Adam the powers of beta1 and
//          beta2, float[] each; settings float[…], in the order of the structs below.
// Output:  the number of distinct ids, int[1].

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "for_this_cpu.h"

namespace {

constexpr int64_t kLanes = 16;  // independent sums: one alone would wait for each addition

struct WideSettings {
  float learning_rate, l1, l2;
};
struct AdagradSettings {
  WideSettings wide;
  float learning_rate;
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

void MoveWide(const Wide &wide, int64_t id, float gradient, const WideSettings &settings) {
  const float old = wide.accumulator[id], squares = old + gradient * gradient;
  const float root = std::sqrt(squares) / settings.learning_rate;
  const float linear = wide.linear[id] + gradient -
                       wide.weight[id] * (root - std::sqrt(old) / settings.learning_rate);
  const float above = std::fabs(linear) - settings.l1;
  wide.weight[id] =
      above > 0 ? -std::copysign(above, linear) / (root + 2 * settings.l2) : 0.0f;
  wide.accumulator[id] = squares;
  wide.linear[id] = linear;
}

FOR_THIS_CPU void Add(float *sum, const float *values, int64_t count) {
  for (int64_t k = 0; k < count; ++k) sum[k] += values[k];
}

FOR_THIS_CPU float MeanSquare(const float *values, int64_t count) {
  float lanes[kLanes] = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += values[k + lane] * values[k + lane];
    }
  }
  float sum = 0;
  for (; k < count; ++k) sum += values[k] * values[k];
  for (float lane : lanes) sum += lane;
  return sum / static_cast<float>(count);
}

FOR_THIS_CPU void AddMultiple(float *row, const float *gradient, float factor, int64_t count) {
  for (int64_t k = 0; k < count; ++k) row[k] += factor * gradient[k];
}

FOR_THIS_CPU void MoveByAdam(float *row, float *m, float *v, const float *gradient, float step,
                             const AdamSettings &settings, int64_t count) {
  const float beta1 = settings.beta1, beta2 = settings.beta2, epsilon = settings.epsilon;
  for (int64_t k = 0; k < count; ++k) {
    m[k] = m[k] * beta1 + gradient[k] * (1 - beta1);
    v[k] = v[k] * beta2 + gradient[k] * gradient[k] * (1 - beta2);
    row[k] -= step * (m[k] / (std::sqrt(v[k]) + epsilon));
  }
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

extern "C" int LearnRowsByAdagrad(int count, void **data, int *, int64_t **shapes, const char **,
                                  void *, void *) {
  if (count != 10) return 1;
  float *table = static_cast<float *>(data[3]);
  float *accumulator = static_cast<float *>(data[4]);
  const AdagradSettings &settings = *static_cast<const AdagradSettings *>(data[8]);
  const int64_t width = shapes[3][1];
  LearnRows(WideOf(data), static_cast<const int32_t *>(data[5]), shapes[5][0],
            static_cast<const float *>(data[6]), static_cast<const float *>(data[7]), width,
            settings.wide, static_cast<int32_t *>(data[9]),
            [=](int64_t id, const float *gradient) {
              accumulator[id] += MeanSquare(gradient, width);
              const float factor = -settings.learning_rate / std::sqrt(accumulator[id]);
              AddMultiple(table + id * width, gradient, factor, width);
            });
  return 0;
}

extern "C" int LearnRowsByAdam(int count, void **data, int *, int64_t **shapes, const char **,
                               void *, void *) {
  if (count != 13) return 1;
  float *table = static_cast<float *>(data[3]);
  float *m = static_cast<float *>(data[4]), *v = static_cast<float *>(data[5]);
  const float beta1_power = *static_cast<const float *>(data[9]);
  const float beta2_power = *static_cast<const float *>(data[10]);
  const AdamSettings &settings = *static_cast<const AdamSettings *>(data[11]);
  const float step = settings.learning_rate * std::sqrt(1 - beta2_power) / (1 - beta1_power);
  const int64_t width = shapes[3][1];
  LearnRows(WideOf(data), static_cast<const int32_t *>(data[6]), shapes[6][0],
            static_cast<const float *>(data[7]), static_cast<const float *>(data[8]), width,
            settings.wide, static_cast<int32_t *>(data[12]),
            [=](int64_t id, const float *gradient) {
              const int64_t begin = id * width;
              MoveByAdam(table + begin, m + begin, v + begin, gradient, step, settings, width);
            });
  return 0;
}
