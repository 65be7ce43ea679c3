// Steps of training on the modelled devices: what they computed, and what their stream waited for.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <map>
#include <utility>

#include "timeline.h"

namespace testbed {

using EmbeddingShape = std::pair<int64_t, int64_t>;  // rows and columns

// What the kernels that were launched since the step before compute.
struct Counts {
  double flops = 0;
  double recomputed = 0;          // of activation checkpointing
  bool optimizer_begins = false;  // an optimizer has begun its step
  double before_optimizer = 0;    // all FLOPs until then
  std::map<EmbeddingShape, int64_t> looked_up;
};

// Set what is counted since the step before, and return what was.
Counts exchange_counts(Counts counts);
void add_counts(const Counts& counts);

// Return the mark of a new step, which has computed what is counted; counting begins again.
StepMarkPtr new_step(int device);

// Count the indices that an embedding looks up in the forward pass of training: tokens.
void count_look_ups(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments);

// Count floating-point operations of products.
void count_products(double flops);

}  // namespace testbed
