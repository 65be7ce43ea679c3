// What kernels are for: parts of the model, by numbers that Python knows, and phases of a step.
#pragma once

#include <cstdint>

namespace testbed {

enum class Phase { other, forward, backward, recomputation };
constexpr int PHASES = 4;
constexpr int NO_PART = -1;

bool is_in_backward();  // whether this thread computes gradients, or recomputes for them
bool recomputes();      // whether this thread computes again what activation checkpointing has dropped

// Return the label of the kernel that this thread runs next: (part + 1) * PHASES + phase.
int label_of_work();

}  // namespace testbed
