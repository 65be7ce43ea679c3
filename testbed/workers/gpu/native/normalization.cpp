// RMS normalization: one kernel forward and two backward, as on the device. Torch for CPUs has no
// meta kernel for these operators.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "cost.h"
#include "device_tensors.h"

namespace testbed {

namespace {

double bytes_of(const at::Tensor& tensor) {
  return static_cast<double>(tensor.numel()) * static_cast<double>(tensor.itemsize());
}

double bytes_of(const std::optional<at::Tensor>& tensor) {
  return tensor && tensor->defined() ? bytes_of(*tensor) : 0;
}

// The sums of the device are float32 for numbers of 16 bits.
at::ScalarType type_of_sums(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 ? at::kFloat : type;
}

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& input, at::IntArrayRef shape,
                                           const std::optional<at::Tensor>& weight, std::optional<double>) {
  const c10::DeviceGuard guard(input.device());
  std::vector<int64_t> rows = input.sizes().vec();
  for (size_t place = rows.size() - shape.size(); place < rows.size(); ++place) {
    rows[place] = 1;
  }
  std::vector<int64_t> strides(rows.size(), 1);
  for (size_t place = rows.size(); place > 1; --place) {
    strides[place - 2] = strides[place - 1] * rows[place - 1];
  }
  at::Tensor output = at::empty_like(input, at::MemoryFormat::Contiguous);
  at::Tensor scales = new_tensor(rows, strides, type_of_sums(input.scalar_type()));
  run_kernel(traffic_time(bytes_of(input) + bytes_of(weight) + bytes_of(output) + bytes_of(scales)));
  return {output, scales};
}

// The gradients of the input and of the weight have a kernel each, which reads both tensors.
std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& gradient, const at::Tensor& input, at::IntArrayRef,
                                            const at::Tensor& scales, const std::optional<at::Tensor>& weight,
                                            std::array<bool, 2> wanted) {
  const c10::DeviceGuard guard(input.device());
  const double read = bytes_of(gradient) + bytes_of(input) + bytes_of(scales);
  at::Tensor of_input;
  at::Tensor of_weight;
  if (wanted[0]) {
    of_input = at::empty_like(input, at::MemoryFormat::Contiguous);
    run_kernel(traffic_time(read + bytes_of(weight) + bytes_of(of_input)));
  }
  if (wanted[1] && weight && weight->defined()) {
    of_weight = at::empty_like(*weight, at::MemoryFormat::Contiguous);
    run_kernel(traffic_time(read + bytes_of(of_weight)));
  }
  return {of_input, of_weight};
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("_fused_rms_norm", &forward);
  library.impl("_fused_rms_norm_backward", &backward);
}

}  // namespace

}  // namespace testbed
