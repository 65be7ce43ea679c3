// Operators on small tensors with values: computed in main memory, in the order of the program.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <vector>

namespace testbed {

// Run an operator on the values of its arguments.
//
// Args:
//   op: the operator.
//   arguments: its arguments.
//   results: what it has returned on the device.
//
// Returns:
//   Whether all values are known; otherwise nothing has changed.
bool run_on_values(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments,
                   const std::vector<c10::IValue>& results);

// Return the results in main memory of an operator whose arguments are known; nothing otherwise.
std::vector<c10::IValue> results_on_values(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments);

}  // namespace testbed
