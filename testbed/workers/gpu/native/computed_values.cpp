#include "computed_values.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>
#include <string_view>
#include <unordered_set>

#include "values.h"

namespace testbed {

namespace {

// Results of operators on floating-point numbers are kept for so many at most: counts, scales and
// rates, and not a small model.
constexpr int64_t MOST_NUMBERS = 64;

// Operators that write their first argument without reading it.
const std::unordered_set<std::string_view> WRITE_FIRST = {
    "aten::zero_", "aten::fill_", "aten::copy_", "aten::_foreach_zero_", "aten::_foreach_copy_"};

// Whether an operator's result may be computed.
bool is_computed(const at::Tensor& tensor) {
  return can_have_values(tensor) &&
         (at::isIntegralType(tensor.scalar_type(), true) || tensor.numel() <= MOST_NUMBERS);
}

// Tensors of an operator's arguments, by what the operator does with them.
struct Parts {
  std::vector<at::Tensor> read;
  std::vector<at::Tensor> written;
  bool has_others = false;  // arguments that cannot be computed with
};

void add_tensors(const c10::IValue& value, std::vector<at::Tensor>& tensors) {
  if (value.isTensor() && value.toTensor().defined()) {
    tensors.push_back(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& one : value.toTensorVector()) {
      tensors.push_back(one);
    }
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector()) {
      if (one && one->defined()) {
        tensors.push_back(*one);
      }
    }
  }
}

Parts parts_of(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments) {
  Parts parts;
  const auto& schema = op.schema();
  for (size_t place = 0; place < arguments.size(); ++place) {
    const c10::Argument& argument = schema.arguments()[place];
    const bool is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    const bool only_writes = argument.is_out() || (place == 0 && WRITE_FIRST.count(schema.name()) > 0);
    if (is_written) {
      add_tensors(arguments[place], parts.written);
    }
    if (!is_written || !only_writes) {
      add_tensors(arguments[place], parts.read);
    }
    parts.has_others |= arguments[place].isGenerator();
  }
  return parts;
}

c10::IValue in_main_memory(const c10::IValue& value);

at::Tensor in_main_memory(const at::Tensor& tensor) {
  const ValuesPtr values = values_of(tensor);
  return values == nullptr ? tensor : values_in(tensor, values);
}

c10::IValue in_main_memory(const c10::IValue& value) {
  if (value.isTensor()) {
    return in_main_memory(value.toTensor());
  }
  if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (at::Tensor& one : tensors) {
      one = in_main_memory(one);
    }
    return tensors;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector()) {
      tensors.push_back(one ? std::optional<at::Tensor>(in_main_memory(*one)) : std::nullopt);
    }
    return tensors;
  }
  return value.isDevice() ? c10::IValue(c10::Device(c10::kCPU)) : value;
}

// Run an operator on values; false if it cannot run in main memory.
bool call(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments, torch::jit::Stack& stack) {
  for (const c10::IValue& value : arguments) {
    stack.push_back(in_main_memory(value));
  }
  const c10::DispatchKeySet python_keys =
      c10::DispatchKeySet(c10::DispatchKey::Python) | c10::DispatchKeySet(c10::DispatchKey::PythonTLSSnapshot);
  const c10::impl::ExcludeDispatchKeyGuard without_python(python_keys);
  const at::AutoDispatchBelowADInplaceOrView below;
  try {
    op.callBoxed(&stack);
  } catch (const c10::Error&) {
    return false;
  }
  return true;
}

bool are_known(const std::vector<at::Tensor>& tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (tensor.is_cuda() && tensor.numel() > 0) {
      const ValuesPtr values = values_of(tensor);
      if (values == nullptr || !is_known(tensor, values)) {
        return false;
      }
    }
  }
  return true;
}

bool is_possible(const c10::OperatorHandle& op, const Parts& parts) {
  return !parts.has_others && !op.hasTag(at::Tag::nondeterministic_seeded) &&
         op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU);
}

void mark_all(const std::vector<at::Tensor>& tensors, bool is_known) {
  for (const at::Tensor& tensor : tensors) {
    if (const ValuesPtr values = values_of(tensor)) {
      if (is_known) {
        mark_values(tensor, values, true);
      } else {
        make_unknown(tensor, values);
      }
    }
  }
}

void compute(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments, const Parts& parts,
             const std::vector<at::Tensor>& results) {
  torch::jit::Stack stack;
  bool is_known = are_known(parts.read) && call(op, arguments, stack);
  std::vector<at::Tensor> made;
  for (const c10::IValue& value : stack) {
    add_tensors(value, made);
  }
  is_known &= made.size() == results.size();
  for (size_t place = 0; is_known && place < results.size(); ++place) {
    is_known &= made[place].sizes() == results[place].sizes();
  }
  mark_all(parts.written, is_known);
  if (!is_known) {
    mark_all(results, false);
    return;
  }
  for (size_t place = 0; place < results.size(); ++place) {
    if (results[place].is_cuda() && parts.written.empty()) {
      write_values(results[place], ensure_values(results[place]), made[place]);
    }
  }
}

}  // namespace

bool run_on_values(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments,
                   const std::vector<c10::IValue>& results) {
  const Parts parts = parts_of(op, arguments);
  for (const at::Tensor& tensor : parts.read) {
    if (tensor.is_cuda() && tensor.numel() > 0 && values_of(tensor) == nullptr) {
      return false;  // by far the most frequent case
    }
  }
  std::vector<at::Tensor> made;
  for (const c10::IValue& value : results) {
    add_tensors(value, made);
  }
  std::vector<at::Tensor> changed = made;
  changed.insert(changed.end(), parts.written.begin(), parts.written.end());
  for (const at::Tensor& tensor : changed) {
    if (!tensor.is_cuda() || !is_computed(tensor)) {
      return false;
    }
  }
  const std::lock_guard lock(values_mutex());
  for (const at::Tensor& tensor : parts.read) {
    if (tensor.is_cuda() && tensor.numel() > 0 && !may_be_known(tensor)) {
      return false;
    }
  }
  if (!is_possible(op, parts)) {
    return false;
  }
  for (const at::Tensor& tensor : changed) {
    ensure_values(tensor);
  }
  std::vector<at::Tensor> all = changed;
  all.insert(all.end(), parts.read.begin(), parts.read.end());
  change_values(all, [op, arguments, parts, made] { compute(op, arguments, parts, made); });
  return true;
}

std::vector<c10::IValue> results_on_values(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments) {
  const std::lock_guard lock(values_mutex());
  const Parts parts = parts_of(op, arguments);
  torch::jit::Stack stack;
  for (const at::Tensor& tensor : parts.read) {
    if (tensor.is_cuda() && !known_values(tensor).defined()) {
      return {};
    }
  }
  return is_possible(op, parts) && call(op, arguments, stack) ? stack : torch::jit::Stack();
}

}  // namespace testbed
