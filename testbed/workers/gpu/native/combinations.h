// What collectives make of the tensors of their ranks, for tensors with values (carried.h).
#pragma once

#include <torch/csrc/distributed/c10d/Types.hpp>

#include "carried.h"

namespace testbed {

Combine reducing(const c10d::ReduceOp& op, size_t tensors);
Combine reducing_for(const c10d::ReduceOp& op, int rank);  // the tensor of each rank for `rank`
// The part of `rank` of each reduced tensor.
Combine reducing_parts(const c10d::ReduceOp& op, size_t tensors, int rank, int ranks);
// What one tensor of each rank gives, one behind the other; for each of `tensors` tensors.
Combine gathering(size_t tensors);
Tensors firsts(const Contributions& all);  // the first tensor of each rank
Combine those_for(int rank);               // the tensor of each rank for `rank`
Combine those_for_joined(int rank);        // the same, one behind the other

}  // namespace testbed
