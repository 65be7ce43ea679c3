#include "stand_ins.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>

#include "device_tensors.h"
#include "memory.h"
#include "values.h"

namespace testbed {

namespace {

at::Tensor view_of(const at::Tensor& base, const at::Tensor& meta) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), meta.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes(), meta.strides(), meta.storage_offset());
  return view;
}

}  // namespace

c10::IValue StandIns::to_meta(const c10::IValue& value) {
  if (value.isTensor()) {
    return to_meta(value.toTensor());
  }
  if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (at::Tensor& one : tensors) {
      one = to_meta(one);
    }
    return tensors;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (const std::optional<at::Tensor>& one : value.toOptionalTensorList()) {
      tensors.push_back(one ? std::optional<at::Tensor>(to_meta(*one)) : std::nullopt);
    }
    return tensors;
  }
  if (value.isDevice()) {
    return c10::Device(c10::kMeta);
  }
  if (value.isGenerator()) {
    return {};
  }
  return value;
}

c10::IValue StandIns::to_device(const c10::IValue& value) {
  if (value.isTensor()) {
    return to_device(value.toTensor());
  }
  if (value.isTensorList()) {
    auto tensors = value.toTensorVector();
    for (at::Tensor& one : tensors) {
      one = to_device(one);
    }
    return tensors;
  }
  return value;
}

at::Tensor StandIns::to_meta(const at::Tensor& tensor) {
  const bool is_scalar = tensor.defined() && tensor.is_cpu() && tensor.dim() == 0;
  if (!tensor.defined() || tensor.is_meta() || is_scalar) {
    return tensor;
  }
  for (const Pair& pair : pairs_) {
    if (pair.device.is_same(tensor)) {
      return pair.meta;
    }
  }
  auto meta = at::detail::make_tensor<c10::TensorImpl>(
      meta_storage(tensor), c10::DispatchKeySet(c10::DispatchKey::Meta), tensor.dtype());
  c10::TensorImpl* state = meta.unsafeGetTensorImpl();
  state->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.is_conj()) {
    state->_set_conj(true);
  }
  pairs_.push_back({tensor, meta});
  return meta;
}

c10::Storage StandIns::meta_storage(const at::Tensor& tensor) {
  for (const Pair& pair : pairs_) {
    if (pair.device.storage().is_alias_of(tensor.storage())) {
      return pair.meta.storage();
    }
  }
  return c10::Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), tensor.storage().nbytes(),
      c10::DataPtr(nullptr, c10::Device(c10::kMeta)), c10::GetAllocator(c10::kMeta), true));
}

at::Tensor StandIns::to_device(const at::Tensor& meta) {
  if (!meta.defined() || !meta.is_meta()) {
    return meta;
  }
  for (const Pair& pair : pairs_) {
    if (pair.meta.is_same(meta)) {
      follow_size(pair);
      return pair.device;
    }
  }
  for (const Pair& pair : pairs_) {
    if (pair.device.is_cuda() && pair.meta.storage().is_alias_of(meta.storage())) {
      has_view_ = true;
      return view_of(pair.device, meta);
    }
  }
  has_new_memory_ = true;
  at::Tensor made = new_tensor(meta.sizes(), meta.strides(), meta.scalar_type());
  pairs_.push_back({made, meta});
  return made;
}

// Give an argument the size that the meta kernel gave to its stand-in.
void StandIns::follow_size(const Pair& pair) {
  const at::Tensor& meta = pair.meta;
  if (pair.device.sizes() == meta.sizes() && pair.device.strides() == meta.strides()) {
    return;
  }
  has_new_size_ = true;
  const auto bytes = at::detail::computeStorageNbytes(meta.sizes(), meta.strides(), meta.itemsize(), meta.storage_offset());
  c10::StorageImpl* storage = pair.device.storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    const ValuesPtr values = values_of(pair.device);
    storage->set_data_ptr_noswap(device_allocator()->allocate(bytes));
    storage->set_nbytes(bytes);
    move_values(values, pair.device);
  }
  pair.device.unsafeGetTensorImpl()->set_sizes_and_strides(meta.sizes(), meta.strides(), meta.storage_offset());
}

}  // namespace testbed
