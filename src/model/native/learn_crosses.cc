// One step of the learner of crosses on the CPU, as a custom operator of MindSpore.
//
// It does what CrossLearner.learn_with_operators in ../crosses.py does, in one pass per phase: the
// operators take five times as long for so many single numbers. tools/setup.sh compiles it.
//
// Inputs:  weight float[2^bits] and squares float[2^bits], both changed in place; key int[b, f];
//          label float[b, 1], negative for a row to learn nothing from; left int[p] and right
//          int[p], the places of each pair's fields; settings float[2]: learning rate and beta.
// Output:  logit float[b, 1], as of before the step.

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int kLanes = 4;  // independent sums: one alone would wait for each addition
constexpr int kAhead = 24;  // places whose memory is fetched before it is their turn

float Sum(const float *weight, const int32_t *place, int64_t pairs) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= pairs; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += weight[place[i + lane]];
  }
  for (; i < pairs; ++i) lanes[0] += weight[place[i]];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

}  // namespace

extern "C" int LearnCrosses(int count, void **data, int *, int64_t **shapes, const char **, void *,
                            void *) {
  if (count != 8) return 1;
  float *weight = static_cast<float *>(data[0]);
  float *squares = static_cast<float *>(data[1]);
  const int32_t *key = static_cast<const int32_t *>(data[2]);
  const float *label = static_cast<const float *>(data[3]);
  const int32_t *left = static_cast<const int32_t *>(data[4]);
  const int32_t *right = static_cast<const int32_t *>(data[5]);
  const float *settings = static_cast<const float *>(data[6]);
  float *logit = static_cast<float *>(data[7]);
  const int32_t mask = static_cast<int32_t>(shapes[0][0] - 1);
  const int64_t rows = shapes[2][0], fields = shapes[2][1], pairs = shapes[4][0];

  std::vector<int32_t> places(rows * pairs + kAhead);
  std::vector<float> gradient(rows);
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t *row_key = key + row * fields;
    int32_t *place = places.data() + row * pairs;
    for (int64_t i = 0; i < pairs; ++i) {
      place[i] = (row_key[left[i]] + row_key[right[i]]) & mask;
      __builtin_prefetch(weight + place[i]);
    }
    logit[row] = Sum(weight, place, pairs);
    gradient[row] = label[row] < 0 ? 0.0f : 1.0f / (1.0f + std::exp(-logit[row])) - label[row];
  }
  // All squares come before the first step: the order of a batch's rows does not matter.
  for (int64_t row = 0; row < rows; ++row) {
    const float square = gradient[row] * gradient[row];
    const int32_t *place = places.data() + row * pairs;
    for (int64_t i = 0; i < pairs; ++i) {
      __builtin_prefetch(squares + place[i + kAhead], 1);
      squares[place[i]] += square;
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    const float step = -settings[0] * gradient[row];
    const int32_t *place = places.data() + row * pairs;
    for (int64_t i = 0; i < pairs; ++i) {
      __builtin_prefetch(squares + place[i + kAhead]);
      __builtin_prefetch(weight + place[i + kAhead], 1);
      weight[place[i]] += step / (settings[1] + std::sqrt(squares[place[i]]));
    }
  }
  return 0;
}
