// Operators that need no meta kernel: new tensors, copies, values, views of storages, attention.
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <cstring>

#include "cost.h"
#include "device.h"
#include "device_tensors.h"
#include "graphs.h"
#include "memory.h"
#include "timeline.h"
#include "values.h"

namespace testbed {

namespace {

const c10::DispatchKeySet DEVICE_KEYS(c10::DispatchKey::CUDA);

}  // namespace

at::Tensor new_tensor(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  return at::detail::empty_strided_generic(sizes, strides, device_allocator(), DEVICE_KEYS, type);
}

void run_kernel(KernelTime duration) {
  const int device = current_device();
  TimeLines::all().run_kernel(device, current_stream(device), duration);
}

std::shared_ptr<Graph> captured_graph() {
  const int device = current_device();
  return TimeLines::all().graph_of(device, current_stream(device));
}

void synchronize() {
  const int device = current_device();
  TimeLines::all().synchronize(device, current_stream(device));
}

namespace {

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                 std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), device_allocator(), DEVICE_KEYS,
                                   c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return new_tensor(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), c10::dtype_or_default(type));
}

double bytes_of(const at::Tensor& tensor) {
  return static_cast<double>(tensor.numel()) * static_cast<double>(tensor.itemsize());
}

// Fill a tensor in main memory with zeros. The kernel takes the pages of a large one back, and reads
// of them give zeros: the zeros of a model need no memory.
void fill_with_zeros(at::Tensor& target) {
  constexpr size_t LEAST_BYTES = 1 << 20;
  const auto bytes = static_cast<size_t>(bytes_of(target));
  const bool is_ours = target.storage().data_ptr().get_deleter() == c10::GetCPUAllocator()->raw_deleter();
  if (!is_ours || bytes < LEAST_BYTES || !target.is_contiguous()) {
    target.zero_();
    return;
  }
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  auto* data = static_cast<char*>(target.data_ptr());
  const auto address = reinterpret_cast<uintptr_t>(data);
  const size_t before = (page - address % page) % page;
  const size_t pages = (bytes - before) / page * page;
  memset(data, 0, before);
  memset(data + before + pages, 0, bytes - before - pages);
  if (madvise(data + before, pages, MADV_DONTNEED) != 0) {
    memset(data + before, 0, pages);
  }
}

// Return whether a copy is a part of a graph, whose replays make the target's values unknown.
bool note_captured_copy(const at::Tensor& target) {
  const auto graph = captured_graph();
  if (graph == nullptr) {
    return false;
  }
  if (target.is_cuda()) {
    forget_values(target);
    graph->note_written(target);
  }
  return true;
}

at::Tensor& copy(at::Tensor& target, const at::Tensor& source, bool non_blocking) {
  const c10::DeviceGuard guard(target.is_cuda() ? target.device() : source.device());
  if (target.is_cuda() && source.is_cuda()) {
    if (!target.is_same(source)) {
      run_kernel(traffic_time(bytes_of(target) + bytes_of(source)));
      if (!note_captured_copy(target)) {
        copy_values(target, source);
      }
    }
    return target;
  }
  const at::Tensor& host_side = target.is_cuda() ? source : target;
  run_kernel({host_copy_ns(std::min(bytes_of(target), bytes_of(source)))});
  if (!(non_blocking && is_pinned(host_side.storage().data()))) {
    synchronize();
  }
  if (note_captured_copy(target)) {
    return target;
  }
  if (target.is_cuda()) {
    keep_values(target, source);
  } else if (kept_values(source).defined()) {
    change_values({source}, [target, source]() mutable { target.copy_(kept_values(source)); });
  } else {
    fill_with_zeros(target);
  }
  return target;
}

at::Tensor copy_from(const at::Tensor& source, const at::Tensor& target, bool non_blocking) {
  at::Tensor changed = target;
  return copy(changed, source, non_blocking);
}

thread_local bool last_value_is_known = false;

at::Scalar value_of(const at::Tensor& tensor) {
  const c10::DeviceGuard guard(tensor.device());
  run_kernel({host_copy_ns(static_cast<double>(tensor.itemsize()))});
  synchronize();
  last_value_is_known = known_values(tensor).defined();
  const at::Tensor values = kept_values(tensor);
  if (values.defined()) {
    return values.item();
  }
  if (tensor.scalar_type() == at::kBool) {
    return at::Scalar(false);
  }
  return at::isIntegralType(tensor.scalar_type(), false) ? at::Scalar(int64_t{0}) : at::Scalar(0.0);
}

bool equal(const at::Tensor& left, const at::Tensor& right) {
  synchronize();
  const at::Tensor first = known_values(left);
  const at::Tensor second = known_values(right);
  last_value_is_known = first.defined() && second.defined();
  return last_value_is_known ? first.equal(second) : left.sizes() == right.sizes();
}

at::Tensor view(const at::Tensor& tensor, c10::SymIntArrayRef size) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor as_strided(const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                      std::optional<c10::SymInt> offset) {
  std::optional<int64_t> first;
  if (offset) {
    first = offset->guard_int(__FILE__, __LINE__);
  }
  return at::native::as_strided_tensorimpl(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), first);
}

at::Tensor reshape_alias(const at::Tensor& tensor, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                        c10::SymIntArrayRef stride) {
  c10::TensorImpl* state = tensor.unsafeGetTensorImpl();
  state->set_storage_keep_dtype(std::move(source));
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const int64_t first = offset.guard_int(__FILE__, __LINE__);
  if (stride.empty()) {
    state->set_sizes_contiguous(sizes);
    state->set_storage_offset(first);
  } else {
    state->set_sizes_and_strides(sizes, C10_AS_INTARRAYREF_SLOW(stride), first);
  }
  return tensor;
}

at::Tensor& set_whole_storage(at::Tensor& tensor, at::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / tensor.itemsize());
  c10::TensorImpl* state = tensor.unsafeGetTensorImpl();
  state->set_storage_keep_dtype(std::move(source));
  state->set_storage_offset(0);
  state->set_sizes_contiguous({elements});
  return tensor;
}

at::Tensor& set_tensor(at::Tensor& tensor, const at::Tensor& source) {
  c10::TensorImpl* state = tensor.unsafeGetTensorImpl();
  state->set_storage_keep_dtype(source.storage());
  state->set_sizes_and_strides(source.sizes(), source.strides(), source.storage_offset());
  return tensor;
}

void record_stream(at::Tensor& tensor, at::Stream stream) { record_use(tensor, stream.id()); }

// Choose flash attention where torch would, and memory-efficient attention otherwise.
int64_t choose_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                         const std::optional<at::Tensor>& mask, double, bool, std::optional<double>, bool) {
  enum Backend : int64_t { math = 0, flash = 1, efficient = 2 };
  constexpr int64_t LARGEST_HEAD = 256;
  const auto type = query.scalar_type();
  const bool is_half = type == at::kHalf || type == at::kBFloat16;
  const bool has_mask = mask.has_value() && mask->defined();
  const bool is_usual = query.dim() == 4 && query.size(-1) == key.size(-1) && !query.is_nested();
  const auto& context = at::globalContext();
  if (is_usual && is_half && !has_mask && query.size(-1) == value.size(-1) && query.size(-1) <= LARGEST_HEAD &&
      context.userEnabledFlashSDP()) {
    return flash;
  }
  const bool same_heads = query.dim() == 4 && query.size(1) == key.size(1);
  if (is_usual && same_heads && (is_half || type == at::kFloat) && context.userEnabledMemEfficientSDP()) {
    return efficient;
  }
  return math;
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("copy_", &copy);
  library.impl("_copy_from", &copy_from);
  library.impl("_local_scalar_dense", &value_of);
  library.impl("equal", &equal);
  library.impl("view", &view);
  library.impl("as_strided", &as_strided);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("set_.source_Storage_storage_offset", &set_storage);
  library.impl("set_.source_Storage", &set_whole_storage);
  library.impl("set_.source_Tensor", &set_tensor);
  library.impl("record_stream", &record_stream);
}

}  // namespace

}  // namespace testbed

namespace at::native {
REGISTER_CUDA_DISPATCH(_fused_sdp_choice_stub, &testbed::choose_attention)
}  // namespace at::native

// Return whether the value that this thread read last was a known one.
extern "C" int testbed_last_value_is_known() { return static_cast<int>(testbed::last_value_is_known); }

extern "C" void testbed_resize_storage(void* storage, int64_t bytes) {
  auto* state = static_cast<c10::StorageImpl*>(storage);
  const c10::DeviceGuard guard(state->device());
  state->set_data_ptr_noswap(testbed::device_allocator()->allocate(bytes));
  state->set_nbytes(bytes);
}
