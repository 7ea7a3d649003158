// The dense update of the wide weights and of the embedding table on the CPU, as a custom operator
// of MindSpore. It moves all v rows in place, in one pass over the table on all CPUs. On the way it
// sums up the table's squares, for the L2 term of the loss.
//
// It does what TrainStepWrap.update in ../train_step.py does with the classes of ../optimizers.py,
// whose formulas are not repeated here. The operators there read the table three times.
//
// Inputs:  as those of LearnRowsByAdam in learn_rows.cc; settings in the order of the struct below.
// Output:  half the sum of the table's squares before the update, float[1]. It does not depend on
//          the number of threads.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "batch_rows.h"
#include "for_this_cpu.h"

namespace {

constexpr int64_t kBlockRows = 128;  // rows that a thread takes at a time
constexpr int64_t kMostThreads = 16;  // more move no more memory
constexpr int64_t kLanes = 16;  // numbers that are worked on at once

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

struct EveryRowSettings {
  AdamSettings adam;
  float unit;  // of m and v: a gradient is divided by it
  float decay;  // a row times this is its gradient by the L2 term, in that unit
};

// A row of the table that the batch names, and its summed gradient.
struct Touched {
  int64_t id, place;
};

struct Table {
  float *row, *m, *v;
  int64_t width;

  Table From(int64_t id) const {
    return {row + id * width, m + id * width, v + id * width, width};
  }
};

FOR_THIS_CPU float SumOfSquares(const float *values, int64_t count) {
  Lanes sums = {};
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    const Lanes some = *reinterpret_cast<const Lanes *>(values + k);
    sums += some * some;
  }
  float sum = 0;
  for (; k < count; ++k) sum += values[k] * values[k];
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

FOR_THIS_CPU void MoveByL2(float *__restrict row, float *__restrict m, float *__restrict v,
                           float step, const EveryRowSettings &settings, int64_t count) {
  const EveryRowSettings own = settings;  // which no write to a row can change
  for (int64_t k = 0; k < count; ++k) {
    MoveNumber(row[k], m[k], v[k], own.decay * row[k], step, own.adam);
  }
}

FOR_THIS_CPU void MoveByBoth(float *__restrict row, float *__restrict m, float *__restrict v,
                             const float *__restrict of_loss, float step,
                             const EveryRowSettings &settings, int64_t count) {
  const EveryRowSettings own = settings;
  for (int64_t k = 0; k < count; ++k) {
    const float gradient = of_loss[k] / own.unit + own.decay * row[k];
    MoveNumber(row[k], m[k], v[k], gradient, step, own.adam);
  }
}

// Each wide weight from its accumulator and its linear term, also where no id of the batch is.
FOR_THIS_CPU void SetWide(float *__restrict weight, const float *__restrict accumulator,
                          const float *__restrict linear, const WideSettings &settings,
                          int64_t count) {
  const WideSettings own = settings;
  for (int64_t k = 0; k < count; ++k) {
    weight[k] = WideWeight(linear[k], std::sqrt(accumulator[k]) / own.learning_rate, own);
  }
}

// Moves the rows from begin up to end; returns the sum of their squares before.
double MoveBlock(const Table &table, int64_t begin, int64_t end,
                 const std::vector<Touched> &touched, const std::vector<float> &sums, float step,
                 const EveryRowSettings &settings) {
  double squares = 0;
  auto next = std::lower_bound(touched.begin(), touched.end(), begin,
                               [](const Touched &each, int64_t id) { return each.id < id; });
  while (begin < end) {
    const bool is_touched = next != touched.end() && next->id == begin;
    const int64_t stop =
        is_touched ? begin + 1 : (next == touched.end() ? end : std::min(end, next->id));
    const Table from = table.From(begin);
    const int64_t count = (stop - begin) * table.width;
    squares += SumOfSquares(from.row, count);
    if (is_touched) {
      const float *of_loss = sums.data() + next->place * table.width;
      MoveByBoth(from.row, from.m, from.v, of_loss, step, settings, count);
      ++next;
    } else {
      MoveByL2(from.row, from.m, from.v, step, settings, count);
    }
    begin = stop;
  }
  return squares;
}

// Calls work(block) for each block, in as many threads as there are CPUs.
template <class Work>
void OnAllCpus(int64_t blocks, Work work) {
  std::atomic<int64_t> next{0};
  const auto take = [&] {
    for (int64_t block = next++; block < blocks; block = next++) work(block);
  };
  const int64_t cpus = std::thread::hardware_concurrency();
  const int64_t threads = std::min({cpus, kMostThreads, blocks});
  std::vector<std::thread> others;
  others.reserve(std::max<int64_t>(threads, 1));
  try {
    for (int64_t number = 1; number < threads; ++number) others.emplace_back(take);
  } catch (const std::system_error &) {
    // No more threads are to be had: those that there are do all.
  }
  take();
  for (std::thread &other : others) other.join();
}

}  // namespace

extern "C" int LearnEveryRowByAdam(int count, void **data, int *, int64_t **shapes, const char **,
                                   void *, void *) {
  if (count != 13) return 1;
  const int64_t rows = shapes[3][0], width = shapes[3][1];
  const Table table = {static_cast<float *>(data[3]), static_cast<float *>(data[4]),
                       static_cast<float *>(data[5]), width};
  const float beta1_power = *static_cast<const float *>(data[9]);
  const float beta2_power = *static_cast<const float *>(data[10]);
  const EveryRowSettings &settings = *static_cast<const EveryRowSettings *>(data[11]);
  const float step = settings.adam.learning_rate * std::sqrt(1 - beta2_power) / (1 - beta1_power);
  const Wide wide = WideOf(data);

  std::vector<Touched> touched;
  std::vector<float> sums;
  int32_t distinct;
  LearnRows(wide, static_cast<const int32_t *>(data[6]), shapes[6][0],
            static_cast<const float *>(data[7]), static_cast<const float *>(data[8]), width,
            settings.adam.wide, &distinct, [&](int64_t id, const float *gradient) {
              touched.push_back({id, static_cast<int64_t>(touched.size())});
              sums.insert(sums.end(), gradient, gradient + width);
            });
  std::sort(touched.begin(), touched.end(),
            [](const Touched &one, const Touched &other) { return one.id < other.id; });

  std::vector<double> squares((rows + kBlockRows - 1) / kBlockRows);
  OnAllCpus(static_cast<int64_t>(squares.size()), [&](int64_t block) {
    const int64_t begin = block * kBlockRows, end = std::min(rows, begin + kBlockRows);
    squares[block] = MoveBlock(table, begin, end, touched, sums, step, settings);
    SetWide(wide.weight + begin, wide.accumulator + begin, wide.linear + begin,
            settings.adam.wide, end - begin);
  });
  double sum = 0;
  for (const double each : squares) sum += each;
  *static_cast<float *>(data[12]) = static_cast<float>(sum / 2);
  return 0;
}
