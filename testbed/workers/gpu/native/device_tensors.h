// Tensors on the modelled devices, and the current stream.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "timeline.h"

namespace testbed {

class Graph;

at::Tensor new_tensor(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type);
void run_kernel(KernelTime duration);  // on the current stream of the current device
void synchronize();                    // wait for the current stream
std::shared_ptr<Graph> captured_graph();  // of the current stream; null: it is not captured

}  // namespace testbed
