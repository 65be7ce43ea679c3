// Tensors in main memory that stand for payloads of modelled devices: real bytes for another library
// to send, all from one small buffer, which is mapped again and again.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace testbed {

// Return a flat tensor of a type with so many elements; its contents are shared with all others.
at::Tensor payload_tensor(int64_t elements, at::ScalarType type);

}  // namespace testbed
