// The input of the dense layers with products of pairs, and its gradient, on the CPU, as custom
// operators of MindSpore: what WideDeepModel.deep_input in ../wide_and_deep.py says. One row of a
// batch stays in the CPU's cache, while the operators there write and read squares of all fields.
//
// DeepInput:          rows float[b, f, e], weight float[b, f], scale float[1]
//                     → float[b, f · e + f · (f - 1) / 2]
// DeepInputGradient:  the gradient of that output, rows, weight, scale → that of rows

#include <cstdint>
#include <vector>

#include "for_this_cpu.h"

namespace {

constexpr int64_t kLanes = 16;  // numbers that are worked on at once

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

int64_t Padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

inline const Lanes &LanesAt(const float *values) {
  return *reinterpret_cast<const Lanes *>(values);
}

// sums[0..kLanes) = Σ_k factors[k · step] · rows[k · stride + (0..kLanes)]
inline void Combine(const float *factors, int64_t step, const float *rows, int64_t stride,
                    int64_t count, float *sums) {
  Lanes even = {}, odd = {};  // two sums: one alone would wait for each addition
  int64_t k = 0;
  for (; k + 1 < count; k += 2) {
    even += factors[k * step] * LanesAt(rows + k * stride);
    odd += factors[(k + 1) * step] * LanesAt(rows + (k + 1) * stride);
  }
  if (k < count) even += factors[k * step] * LanesAt(rows + k * stride);
  *reinterpret_cast<Lanes *>(sums) = even + odd;
}

// One row of the output. columns holds float[e][padded f], products float[padded f].
FOR_THIS_CPU void RowOfInput(const float *rows, const float *weight, float scale, int64_t fields,
                             int64_t width, float *columns, float *products, float *output) {
  const int64_t padded = Padded(fields);
  for (int64_t i = 0; i < fields; ++i) {
    for (int64_t k = 0; k < width; ++k) {
      const float weighted = rows[i * width + k] * weight[i];
      *output++ = weighted;
      columns[k * padded + i] = weighted;
    }
  }
  for (int64_t i = 0; i + 1 < fields; ++i) {
    for (int64_t j = (i + 1) / kLanes * kLanes; j < fields; j += kLanes) {
      Combine(columns + i, padded, columns + j, padded, width, products + j);
    }
    for (int64_t j = i + 1; j < fields; ++j) *output++ = products[j] * scale;
  }
}

// That row's gradient. weighted holds float[f][padded e], of_pairs float[f][f], sums
// float[padded e].
FOR_THIS_CPU void RowOfGradient(const float *gradient, const float *rows, const float *weight,
                                float scale, int64_t fields, int64_t width, float *weighted,
                                float *of_pairs, float *sums, float *output) {
  const int64_t padded = Padded(width);
  for (int64_t i = 0; i < fields; ++i) {
    for (int64_t k = 0; k < width; ++k) weighted[i * padded + k] = rows[i * width + k] * weight[i];
  }
  const float *of_pair = gradient + fields * width;
  for (int64_t i = 0; i < fields; ++i) {
    for (int64_t j = i + 1; j < fields; ++j) {
      of_pairs[i * fields + j] = of_pairs[j * fields + i] = *of_pair++ * scale;
    }
  }
  for (int64_t i = 0; i < fields; ++i) {
    for (int64_t k = 0; k < width; k += kLanes) {
      Combine(of_pairs + i * fields, 1, weighted + k, padded, fields, sums + k);
    }
    for (int64_t k = 0; k < width; ++k) {
      output[i * width + k] = (gradient[i * width + k] + sums[k]) * weight[i];
    }
  }
}

}  // namespace

extern "C" int DeepInput(int count, void **data, int *, int64_t **shapes, const char **, void *,
                         void *) {
  if (count != 4) return 1;
  const float *rows = static_cast<const float *>(data[0]);
  const float *weight = static_cast<const float *>(data[1]);
  const float scale = *static_cast<const float *>(data[2]);
  float *output = static_cast<float *>(data[3]);
  const int64_t batch = shapes[0][0], fields = shapes[0][1], width = shapes[0][2];
  const int64_t outputs = fields * width + fields * (fields - 1) / 2;
  std::vector<float> columns(width * Padded(fields)), products(Padded(fields));
  for (int64_t row = 0; row < batch; ++row) {
    RowOfInput(rows + row * fields * width, weight + row * fields, scale, fields, width,
               columns.data(), products.data(), output + row * outputs);
  }
  return 0;
}

extern "C" int DeepInputGradient(int count, void **data, int *, int64_t **shapes, const char **,
                                 void *, void *) {
  if (count != 5) return 1;
  const float *gradient = static_cast<const float *>(data[0]);
  const float *rows = static_cast<const float *>(data[1]);
  const float *weight = static_cast<const float *>(data[2]);
  const float scale = *static_cast<const float *>(data[3]);
  float *output = static_cast<float *>(data[4]);
  const int64_t batch = shapes[1][0], fields = shapes[1][1], width = shapes[1][2];
  const int64_t inputs = fields * width + fields * (fields - 1) / 2;
  std::vector<float> weighted(fields * Padded(width)), of_pairs(fields * fields);
  std::vector<float> sums(Padded(width));
  for (int64_t row = 0; row < batch; ++row) {
    RowOfGradient(gradient + row * inputs, rows + row * fields * width, weight + row * fields,
                  scale, fields, width, weighted.data(), of_pairs.data(), sums.data(),
                  output + row * fields * width);
  }
  return 0;
}
