// Steps of training on the modelled devices: what they computed, and what their stream waited for.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

namespace testbed {

// Count the indices that an embedding looks up in the forward pass of training: tokens.
void count_look_ups(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments);

// Count floating-point operations of products.
void count_products(double flops);

}  // namespace testbed
