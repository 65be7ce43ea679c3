// The time that a kernel takes on the modelled device: that of its products or of its memory
// traffic, whichever is longer (a roofline). Streams take the least time of a kernel in place of a
// shorter one.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>

#include <cstdint>

#include "timeline.h"

namespace testbed {

// The cost of an operator's kernels.
struct Cost {
  KernelTime time;
  double flops;
};

// Return the cost of an operator's kernels.
//
// Args:
//   schema: the operator.
//   arguments: its arguments.
//   results: tensors that the operator has made.
Cost kernel_cost(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments,
                 c10::ArrayRef<c10::IValue> results);

KernelTime traffic_time(double bytes);  // of a kernel that only moves data
int64_t host_copy_ns(double bytes);

}  // namespace testbed
