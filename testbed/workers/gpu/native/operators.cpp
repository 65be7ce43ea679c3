// Operators on the modelled devices: each runs the meta kernel, which knows shapes without values,
// and puts the time of its kernels on the current stream.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "computed_values.h"
#include "cost.h"
#include "device_tensors.h"
#include "graphs.h"
#include "known_calls.h"
#include "steps.h"
#include "stand_ins.h"
#include "values.h"

namespace testbed {

namespace {

using torch::jit::Stack;

// Operators whose results' sizes depend on values, which modelled tensors do not have.
const std::unordered_set<std::string_view> NEED_VALUES = {
    "aten::nonzero",      "aten::nonzero_numpy",  "aten::masked_select", "aten::_unique",
    "aten::_unique2",     "aten::unique_dim",     "aten::unique_consecutive", "aten::unique_dim_consecutive",
    "aten::bincount",     "aten::repeat_interleave"};
const std::unordered_set<std::string_view> WITHOUT_KERNEL = {"aten::resize_", "aten::record_stream"};

[[noreturn]] void refuse(const c10::FunctionSchema& schema, const char* reason) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "testbed: the modelled GPU cannot run ", schema.name(), ": ", reason);
}

std::optional<c10::Device> device_of(c10::ArrayRef<c10::IValue> arguments) {
  for (const c10::IValue& value : arguments) {
    if (value.isTensor() && value.toTensor().defined() && value.toTensor().is_cuda()) {
      return value.toTensor().device();
    }
    if (value.isTensorList()) {
      for (const at::Tensor& one : value.toTensorVector()) {
        if (one.is_cuda()) {
          return one.device();
        }
      }
    }
    if (value.isDevice() && value.toDevice().is_cuda()) {
      return value.toDevice();
    }
  }
  return std::nullopt;
}

bool writes_arguments(const c10::FunctionSchema& schema) {
  for (const c10::Argument& argument : schema.arguments()) {
    if (argument.alias_info() != nullptr && argument.alias_info()->isWrite()) {
      return true;
    }
  }
  return false;
}

std::vector<at::Tensor> tensors_of(const c10::IValue& value) {
  if (value.isTensor()) {
    return {value.toTensor()};
  }
  return value.isTensorList() ? value.toTensorVector() : std::vector<at::Tensor>();
}

void forget_written(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& arguments) {
  for (size_t place = 0; place < arguments.size(); ++place) {
    const c10::AliasInfo* alias = schema.arguments()[place].alias_info();
    if (alias == nullptr || !alias->isWrite()) {
      continue;
    }
    for (const at::Tensor& one : tensors_of(arguments[place])) {
      forget_values(one);
    }
  }
}

// A capture computes nothing: what a graph writes is unknown, after each replay too.
void note_captured(Graph& graph, const c10::FunctionSchema& schema, const std::vector<c10::IValue>& arguments,
                   const std::vector<c10::IValue>& results) {
  forget_written(schema, arguments);
  std::vector<c10::IValue> written = results;
  for (size_t place = 0; place < arguments.size(); ++place) {
    const c10::AliasInfo* alias = schema.arguments()[place].alias_info();
    if (alias != nullptr && alias->isWrite()) {
      written.push_back(arguments[place]);
    }
  }
  for (const c10::IValue& value : written) {
    for (const at::Tensor& one : tensors_of(value)) {
      graph.note_written(one);
    }
  }
}

void note_values(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments,
                 const std::vector<c10::IValue>& results) {
  if (const auto graph = captured_graph()) {
    note_captured(*graph, op.schema(), arguments, results);
    return;
  }
  if (!run_on_values(op, arguments, results)) {
    forget_written(op.schema(), arguments);
  }
}

void run_meta_kernel(const c10::OperatorHandle& op, Stack& stack) {
  const c10::DispatchKeySet python_keys =
      c10::DispatchKeySet(c10::DispatchKey::Python) | c10::DispatchKeySet(c10::DispatchKey::PythonTLSSnapshot);
  const c10::impl::ExcludeDispatchKeyGuard without_python(python_keys);
  const at::AutoDispatchBelowAutograd below;
  op.callBoxed(&stack);
}

std::vector<c10::IValue> take_arguments(const c10::OperatorHandle& op, Stack* stack) {
  const auto count = static_cast<std::ptrdiff_t>(op.schema().arguments().size());
  std::vector<c10::IValue> arguments(stack->end() - count, stack->end());
  torch::jit::drop(*stack, static_cast<size_t>(count));
  return arguments;
}

void run(const Cost& cost) {
  run_kernel(cost.time);
  if (cost.flops > 0) {
    count_products(cost.flops);
  }
}

// Return a call's results from those of an equal call.
void repeat(const KnownCall& call, const std::vector<c10::IValue>& arguments, Stack* stack) {
  for (const KnownResult& result : call.results) {
    std::vector<at::Tensor> tensors;
    for (const KnownTensor& tensor : result.tensors) {
      if (tensor.argument < 0) {
        tensors.push_back(new_tensor(tensor.sizes, tensor.strides, tensor.type));
      } else {
        tensors.push_back(arguments[tensor.argument].toTensor());
      }
    }
    if (result.is_list) {
      stack->emplace_back(std::move(tensors));
    } else {
      stack->emplace_back(std::move(tensors[0]));
    }
  }
  if (call.time.ns > 0) {
    run(Cost{call.time, call.flops});
  }
}

std::optional<KnownTensor> known_tensor(const at::Tensor& tensor, const std::vector<c10::IValue>& arguments) {
  if (!tensor.defined() || !tensor.is_cuda()) {
    return std::nullopt;
  }
  for (size_t place = 0; place < arguments.size(); ++place) {
    if (arguments[place].isTensor() && arguments[place].toTensor().is_same(tensor)) {
      return KnownTensor{static_cast<int>(place), tensor.scalar_type(), {}, {}};
    }
  }
  return KnownTensor{-1, tensor.scalar_type(), tensor.sizes().vec(), tensor.strides().vec()};
}

std::optional<std::vector<KnownResult>> known_results(const std::vector<c10::IValue>& values,
                                                      const std::vector<c10::IValue>& arguments) {
  std::vector<KnownResult> results;
  for (const c10::IValue& value : values) {
    if (!value.isTensor() && !value.isTensorList()) {
      return std::nullopt;
    }
    KnownResult result{value.isTensorList(), {}};
    const std::vector<at::Tensor> tensors =
        result.is_list ? value.toTensorVector() : std::vector<at::Tensor>{value.toTensor()};
    for (const at::Tensor& tensor : tensors) {
      auto known = known_tensor(tensor, arguments);
      if (!known) {
        return std::nullopt;
      }
      result.tensors.push_back(std::move(*known));
    }
    results.push_back(std::move(result));
  }
  return results;
}

// Run an operator whose results' sizes depend on values, if these are known. As on a device, the CPU
// waits for them.
bool run_with_values(const c10::OperatorHandle& op, const std::vector<c10::IValue>& arguments, Stack* stack) {
  synchronize();
  const auto results = results_on_values(op, arguments);
  for (const c10::IValue& value : results) {
    if (!value.isTensor()) {
      stack->push_back(value);
      continue;
    }
    const at::Tensor& one = value.toTensor();
    const at::Tensor made = new_tensor(one.sizes(), one.strides(), one.scalar_type());
    keep_values(made, one);
    stack->emplace_back(made);
  }
  if (!results.empty()) {
    run(kernel_cost(op.schema(), arguments, {}));
  }
  return !results.empty();
}

void check_can_run(const c10::OperatorHandle& op) {
  const c10::FunctionSchema& schema = op.schema();
  if (NEED_VALUES.count(schema.name()) > 0) {
    refuse(schema, "the size of its result depends on values, which modelled tensors do not have");
  }
  if (!op.hasComputedKernelForDispatchKey(c10::DispatchKey::Meta)) {
    refuse(schema, "torch has no meta kernel for this operator, which gives the shapes of its results");
  }
}

// Every operator without a kernel of its own.
void run_operator(const c10::OperatorHandle& op, Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const auto arguments = take_arguments(op, stack);
  count_look_ups(schema, arguments);
  const c10::OptionalDeviceGuard guard(device_of(arguments));
  auto key = key_of(&schema, arguments);
  if (key) {
    if (const KnownCall* call = find_call(*key)) {
      repeat(*call, arguments, stack);
      const auto results = static_cast<std::ptrdiff_t>(call->results.size());
      note_values(op, arguments, {stack->end() - results, stack->end()});
      return;
    }
  }
  if (NEED_VALUES.count(schema.name()) > 0 && run_with_values(op, arguments, stack)) {
    return;
  }
  check_can_run(op);

  StandIns stand_ins;
  Stack inner;
  inner.reserve(arguments.size());
  for (const c10::IValue& value : arguments) {
    inner.push_back(stand_ins.to_meta(value));
  }
  run_meta_kernel(op, inner);

  std::vector<c10::IValue> made;
  for (const c10::IValue& value : inner) {
    made.push_back(stand_ins.to_device(value));
    stack->push_back(made.back());
  }
  const bool writes = writes_arguments(schema);
  const bool is_view = !writes && !stand_ins.has_new_memory();
  if (is_view || WITHOUT_KERNEL.count(schema.name()) > 0) {
    return;
  }
  const auto results = writes ? c10::ArrayRef<c10::IValue>() : c10::ArrayRef<c10::IValue>(made);
  const Cost cost = kernel_cost(schema, arguments, results);
  run(cost);
  note_values(op, arguments, made);
  auto known = known_results(made, arguments);
  if (key && known && stand_ins.is_simple()) {
    remember_call(std::move(*key), {std::move(*known), cost.time, cost.flops});
  }
}

// Operators on lists of tensors, as optimizers use them: one kernel for the whole list.
void run_on_lists(const c10::OperatorHandle& op, Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const auto arguments = take_arguments(op, stack);
  const c10::OptionalDeviceGuard guard(device_of(arguments));
  // the first list, or else the first tensor: `_foreach_pow` has a number before its list
  const auto found = std::find_if(arguments.begin(), arguments.end(),
                                  [](const c10::IValue& value) { return value.isTensorList(); });
  const c10::IValue& list = found == arguments.end() ? arguments[0] : *found;
  std::vector<c10::IValue> results;
  for (const c10::Argument& result : schema.returns()) {
    if (result.alias_info() != nullptr) {  // an argument that the operator has changed
      results.push_back(list);
      continue;
    }
    const bool gives_scalars =
        schema.name() == "aten::_foreach_norm" || schema.name() == "aten::_foreach_max";
    std::vector<at::Tensor> made;
    for (const at::Tensor& one : list.toTensorVector()) {
      if (gives_scalars) {
        made.push_back(new_tensor({}, {}, one.scalar_type()));
      } else {
        made.push_back(at::empty_like(one));
      }
    }
    results.emplace_back(std::move(made));
  }
  const bool writes = writes_arguments(schema);
  run(kernel_cost(schema, arguments, writes ? c10::ArrayRef<c10::IValue>() : c10::ArrayRef<c10::IValue>(results)));
  note_values(op, arguments, results);
  for (c10::IValue& value : results) {
    stack->push_back(std::move(value));
  }
}

// Operators that write new values into their first argument, whose shape stays.
void run_writing(const c10::OperatorHandle& op, Stack* stack) {
  const auto arguments = take_arguments(op, stack);
  const c10::OptionalDeviceGuard guard(device_of(arguments));
  run(kernel_cost(op.schema(), arguments, {}));
  note_values(op, arguments, {arguments[0]});
  stack->push_back(arguments[0]);
}

void register_list_operators(torch::Library& library) {
  for (const c10::OperatorName& name : c10::Dispatcher::singleton().getAllOpNames()) {
    const std::string_view text(name.name);
    const bool is_foreach = text.rfind("aten::_foreach_", 0) == 0;
    const bool is_fused = text.rfind("aten::_fused_ad", 0) == 0 || text.rfind("aten::_fused_sgd", 0) == 0;
    const bool is_amp = text.rfind("aten::_amp_", 0) == 0;
    const bool is_in_place = !text.empty() && text.back() == '_';
    const bool is_out = name.overload_name.find("out") != std::string::npos;
    if (is_out || !(is_foreach || ((is_fused || is_amp) && is_in_place))) {
      continue;
    }
    const std::string full = name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
    library.impl(full.c_str(), torch::CppFunction::makeFromBoxedFunction<&run_on_lists>());
  }
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&run_operator>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  // Torch would choose libraries for these, whose operators have no meta kernels.
  for (const char* name : {"convolution", "convolution_backward", "native_layer_norm", "native_layer_norm_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_operator>());
  }
  // Torch would look up in another operator, which scripts use for other things than tokens.
  library.impl("embedding", torch::CppFunction::makeFromBoxedFunction<&run_operator>());
  for (const char* name :
       {"zero_", "fill_.Scalar", "fill_.Tensor", "normal_", "uniform_", "random_", "random_.from", "random_.to",
        "bernoulli_.float", "bernoulli_.Tensor", "exponential_", "log_normal_", "cauchy_", "geometric_"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_writing>());
  }
  register_list_operators(library);
}

}  // namespace

}  // namespace testbed
