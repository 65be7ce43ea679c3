// Values of small tensors. Modelled tensors have no values, except small ones that come from main
// memory, and what operators make of them: lengths, flags, masks, objects, the order of DDP's
// buckets. Programs read these back and decide by them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace testbed {

// The values of a block of memory on a device.
struct Values {
  at::Tensor bytes;
  at::Tensor known;  // for each byte 255, or 0 if a zero stands for it
  int waiting = 0;   // changes that wait for a collective
};
using ValuesPtr = std::shared_ptr<Values>;

// Whether a tensor may have values.
bool can_have_values(const at::Tensor& tensor);

// Whether a tensor has values, or will have them once a collective has ended.
bool may_be_known(const at::Tensor& tensor);

// Take the values of a tensor in main memory.
void keep_values(const at::Tensor& target, const at::Tensor& values);
// Copy the values of a tensor on a device, or those that it will have.
void copy_values(const at::Tensor& target, const at::Tensor& source);
void forget_values(const at::Tensor& tensor);
// Give a block the values of the smaller one that it replaces.
void move_values(const ValuesPtr& from, const at::Tensor& to);

// Return the values, in main memory; undefined if there are none.
at::Tensor known_values(const at::Tensor& tensor);
// Return the values with zeros for those that are unknown; undefined if there are none.
at::Tensor kept_values(const at::Tensor& tensor);

// Make a change to the values of tensors, in the order of the program.
//
// Args:
//   tensors: those whose values the change reads or writes.
//   make: makes the change.
//   is_ready: whether it can be made now; without it, as soon as those before it are made.
void change_values(const std::vector<at::Tensor>& tensors, std::function<void()> make,
                   std::function<bool()> is_ready = {});

// Make the changes that have become ready.
void settle_values();

// What the functions above are made of; callers hold the mutex.
std::recursive_mutex& values_mutex();
ValuesPtr values_of(const at::Tensor& tensor);  // null if there are none
ValuesPtr ensure_values(const at::Tensor& tensor);
at::Tensor values_in(const at::Tensor& tensor, const ValuesPtr& values);
bool is_known(const at::Tensor& tensor, const ValuesPtr& values);
void mark_values(const at::Tensor& tensor, const ValuesPtr& values, bool is_known);
void write_values(const at::Tensor& target, const ValuesPtr& values, const at::Tensor& source);
void make_unknown(const at::Tensor& target, const ValuesPtr& values);

}  // namespace testbed
