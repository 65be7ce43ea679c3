// Meta tensors that stand for modelled tensors while a meta kernel works shapes out.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <vector>

namespace testbed {

// Tensors of one call on the modelled device, and the meta tensors that stand for them.
class StandIns {
 public:
  c10::IValue to_meta(const c10::IValue& value);

  // Return the tensor of the device for a meta kernel's result: an argument, a view, or a new one.
  c10::IValue to_device(const c10::IValue& value);

  bool has_new_memory() const { return has_new_memory_; }
  bool is_simple() const { return !has_view_ && !has_new_size_; }

 private:
  struct Pair {
    at::Tensor device;
    at::Tensor meta;
  };

  at::Tensor to_meta(const at::Tensor& tensor);
  at::Tensor to_device(const at::Tensor& meta);
  c10::Storage meta_storage(const at::Tensor& tensor);
  void follow_size(const Pair& pair);

  std::vector<Pair> pairs_;
  bool has_new_memory_ = false;
  bool has_view_ = false;
  bool has_new_size_ = false;
};

}  // namespace testbed
