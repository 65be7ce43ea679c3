#include "values.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <unordered_set>

#include "memory.h"

namespace testbed {

namespace {

constexpr int64_t LARGEST_BLOCK = 64 << 10;
constexpr uint8_t KNOWN = 255;

// Work on values is no work of the program: no mode, hook or graph of torch sees it.
struct Unseen {
  c10::impl::ExcludeDispatchKeyGuard without_python{
      c10::DispatchKeySet(c10::DispatchKey::Python) | c10::DispatchKeySet(c10::DispatchKey::PythonTLSSnapshot)};
  at::AutoDispatchBelowADInplaceOrView below;
};

struct Change {
  std::vector<ValuesPtr> values;
  std::function<void()> make;
  std::function<bool()> is_ready;
};

auto& waiting = *new std::list<Change>;

at::ScalarType integer_of(size_t bytes) {
  switch (bytes) {
    case 1:
      return at::kChar;
    case 2:
      return at::kShort;
    case 4:
      return at::kInt;
    default:
      return at::kLong;
  }
}

// Return the tensor's part of some bytes of its block.
at::Tensor part(const at::Tensor& tensor, const ValuesPtr& owner, const at::Tensor& bytes, at::ScalarType type) {
  auto* first = bytes.data_ptr<uint8_t>() + tensor.storage_offset() * static_cast<int64_t>(tensor.itemsize());
  const auto options = at::TensorOptions().dtype(type).device(at::kCPU);
  return at::from_blob(first, tensor.sizes(), tensor.strides(), [owner](void*) {}, options);
}

}  // namespace

std::recursive_mutex& values_mutex() {
  static auto* mutex = new std::recursive_mutex;
  return *mutex;
}

ValuesPtr values_of(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) {
    return nullptr;
  }
  const ValuesPlace place = values_place(tensor);
  return place.values == nullptr ? nullptr : *place.values;
}

ValuesPtr ensure_values(const at::Tensor& tensor) {
  const Unseen unseen;
  const ValuesPlace place = values_place(tensor);
  if (*place.values == nullptr) {
    const auto options = at::TensorOptions().dtype(at::kByte).device(at::kCPU);
    *place.values = std::make_shared<Values>(Values{at::zeros({place.bytes}, options), at::zeros({place.bytes}, options)});
  }
  return *place.values;
}

at::Tensor values_in(const at::Tensor& tensor, const ValuesPtr& values) {
  return part(tensor, values, values->bytes, tensor.scalar_type());
}

void mark_values(const at::Tensor& tensor, const ValuesPtr& values, bool is_known) {
  part(tensor, values, values->known, integer_of(tensor.itemsize())).fill_(is_known ? -1 : 0);
}

bool is_known(const at::Tensor& tensor, const ValuesPtr& values) {
  const at::Tensor marks = part(tensor, values, values->known, integer_of(tensor.itemsize())).contiguous();
  const auto* first = static_cast<const uint8_t*>(marks.data_ptr());
  const auto bytes = static_cast<int64_t>(marks.nbytes());
  for (int64_t place = 0; place < bytes; ++place) {
    if (first[place] != KNOWN) {
      return false;
    }
  }
  return true;
}

void write_values(const at::Tensor& target, const ValuesPtr& values, const at::Tensor& source) {
  values_in(target, values).copy_(source);
  mark_values(target, values, true);
}

void make_unknown(const at::Tensor& target, const ValuesPtr& values) {
  values_in(target, values).zero_();
  mark_values(target, values, false);
}

bool can_have_values(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda() || tensor.itemsize() > sizeof(int64_t)) {
    return false;
  }
  const ValuesPlace place = values_place(tensor);
  return place.values != nullptr && place.bytes <= LARGEST_BLOCK;
}

bool may_be_known(const at::Tensor& tensor) {
  const std::lock_guard lock(values_mutex());
  const Unseen unseen;
  const ValuesPtr values = values_of(tensor);
  return values != nullptr && (values->waiting > 0 || is_known(tensor, values));
}

void change_values(const std::vector<at::Tensor>& tensors, std::function<void()> make, std::function<bool()> is_ready) {
  const std::lock_guard lock(values_mutex());
  std::vector<ValuesPtr> all;
  bool waits = is_ready && !is_ready();
  for (const at::Tensor& tensor : tensors) {
    if (const ValuesPtr values = values_of(tensor)) {
      all.push_back(values);
      waits |= values->waiting > 0;
    }
  }
  if (!waits) {
    const Unseen unseen;
    make();
    return;
  }
  for (const ValuesPtr& values : all) {
    values->waiting += 1;
  }
  waiting.push_back({std::move(all), std::move(make), std::move(is_ready)});
}

void settle_values() {
  const std::lock_guard lock(values_mutex());
  std::unordered_set<Values*> blocked;
  for (auto one = waiting.begin(); one != waiting.end();) {
    bool waits = one->is_ready && !one->is_ready();
    for (const ValuesPtr& values : one->values) {
      waits |= blocked.count(values.get()) > 0;
    }
    if (waits) {
      for (const ValuesPtr& values : one->values) {
        blocked.insert(values.get());
      }
      ++one;
      continue;
    }
    const Unseen unseen;
    one->make();
    for (const ValuesPtr& values : one->values) {
      values->waiting -= 1;
    }
    one = waiting.erase(one);
  }
}

void keep_values(const at::Tensor& target, const at::Tensor& values) {
  if (!can_have_values(target) || !values.is_cpu()) {
    forget_values(target);
    return;
  }
  const std::lock_guard lock(values_mutex());
  const ValuesPtr place = ensure_values(target);
  const at::Tensor taken = place->waiting > 0 ? values.clone() : values;
  change_values({target}, [target, place, taken] { write_values(target, place, taken); });
}

void copy_values(const at::Tensor& target, const at::Tensor& source) {
  const std::lock_guard lock(values_mutex());
  if (!may_be_known(source) || !can_have_values(target)) {
    forget_values(target);
    return;
  }
  const ValuesPtr place = ensure_values(target);
  change_values({target, source}, [target, place, source] {
    const ValuesPtr values = values_of(source);
    if (is_known(source, values)) {
      write_values(target, place, values_in(source, values));
    } else {
      make_unknown(target, place);
    }
  });
}

void move_values(const ValuesPtr& from, const at::Tensor& to) {
  const int64_t bytes = values_place(to).bytes;
  if (from == nullptr || bytes > LARGEST_BLOCK) {
    return;
  }
  const std::lock_guard lock(values_mutex());
  const ValuesPtr place = ensure_values(to);
  const int64_t common = std::min<int64_t>(bytes, from->bytes.numel());
  memcpy(place->bytes.data_ptr(), from->bytes.data_ptr(), common);
  memset(place->known.data_ptr(), KNOWN, bytes);  // what was not there before has any value
  memcpy(place->known.data_ptr(), from->known.data_ptr(), common);
}

void forget_values(const at::Tensor& tensor) {
  const ValuesPtr values = values_of(tensor);
  if (values == nullptr) {
    return;
  }
  const std::lock_guard lock(values_mutex());
  change_values({tensor}, [tensor, values] { make_unknown(tensor, values); });
}

at::Tensor known_values(const at::Tensor& tensor) {
  const std::lock_guard lock(values_mutex());
  const Unseen unseen;
  const ValuesPtr values = values_of(tensor);
  if (values == nullptr || values->waiting > 0 || !is_known(tensor, values)) {
    return {};
  }
  return values_in(tensor, values);
}

at::Tensor kept_values(const at::Tensor& tensor) {
  const std::lock_guard lock(values_mutex());
  const Unseen unseen;
  const ValuesPtr values = values_of(tensor);
  return values == nullptr ? at::Tensor() : values_in(tensor, values);
}

}  // namespace testbed
