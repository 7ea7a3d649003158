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

#include "batch_rows.h"
#include "for_this_cpu.h"

namespace {

constexpr int64_t kLanes = 16;  // independent sums: one alone would wait for each addition

struct AdagradSettings {
  WideSettings wide;
  float learning_rate;
};

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
  const AdamSettings own = settings;  // which no write to a row can change
  for (int64_t k = 0; k < count; ++k) MoveNumber(row[k], m[k], v[k], gradient[k], step, own);
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
