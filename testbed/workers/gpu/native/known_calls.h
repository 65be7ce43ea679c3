// Results of earlier calls of operators: a training loop repeats the same shapes, and torch takes
// much longer to work shapes out than to look them up.
#pragma once

#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "timeline.h"

namespace testbed {

// One tensor that a call has returned.
struct KnownTensor {
  int argument = -1;  // the argument that it is; -1: a new tensor
  at::ScalarType type = at::kFloat;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
};

// One value that a call has returned.
struct KnownResult {
  bool is_list = false;
  std::vector<KnownTensor> tensors;
};

struct KnownCall {
  std::vector<KnownResult> results;
  KernelTime time = {0};  // 0: the call runs no kernel
  double flops = 0;
};

using CallKey = std::vector<int64_t>;

// Return what identifies a call apart from values; nothing if the results may depend on more.
std::optional<CallKey> key_of(const void* op, c10::ArrayRef<c10::IValue> arguments);

const KnownCall* find_call(const CallKey& key);
void remember_call(CallKey key, KnownCall call);

}  // namespace testbed
