#include "memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>
#include <unordered_map>

#include "device.h"
#include "values.h"

namespace testbed {

namespace {

// As torch's caching allocator: blocks are multiples of 512 B, and come from segments of 2 MiB, or
// of 20 MiB for blocks of 1 MiB and more.
constexpr int64_t BLOCK = 512;
constexpr int64_t SEGMENT = 2 << 20;
constexpr uintptr_t FIRST_ADDRESS = 0x700000000000;
constexpr uintptr_t ADDRESSES_OF_A_DEVICE = uintptr_t{1} << 40;

struct Block {
  int device;
  int64_t bytes;
  int64_t requested;
  std::shared_ptr<Values> values = nullptr;
};

struct DeviceMemory {
  MemoryUse use;
  uintptr_t used_addresses = 0;
  double fraction = 1.0;
};

std::mutex mutex;
DeviceMemory memories[MOST_DEVICES];

std::string size_text(int64_t bytes) {
  char text[32];
  const double gib = static_cast<double>(bytes) / (1 << 30);
  const double mib = static_cast<double>(bytes) / (1 << 20);
  snprintf(text, sizeof text, gib >= 1 ? "%.2f GiB" : "%.2f MiB", gib >= 1 ? gib : mib);
  return text;
}

void refuse(int device, int64_t wanted, const DeviceMemory& memory) {
  const int64_t total = accelerator().memory_bytes;
  TORCH_CHECK_WITH(
      OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", size_text(wanted),
      ". GPU ", device, " has a total capacity of ", size_text(total), " of which ",
      size_text(total - memory.use.allocated), " is free (modelled ", accelerator().name, "). Of the allocated memory ",
      size_text(memory.use.allocated), " is allocated by PyTorch.");
}

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  {
    const std::lock_guard lock(mutex);
    MemoryUse& use = memories[block->device].use;
    use.allocated -= block->bytes;
    use.requested -= block->requested;
    use.blocks -= 1;
  }
  delete block;
}

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    const int device = current_device();
    const c10::Device place(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
    if (size == 0) {
      return {nullptr, nullptr, &release_nothing, place};
    }
    const auto requested = static_cast<int64_t>(size);
    const int64_t bytes = (requested + BLOCK - 1) / BLOCK * BLOCK;
    const std::lock_guard lock(mutex);
    DeviceMemory& memory = memories[device];
    MemoryUse& use = memory.use;
    const auto limit = static_cast<int64_t>(memory.fraction * accelerator().usable_bytes);
    if (use.allocated + bytes > limit) {
      use.out_of_memory_errors += 1;
      refuse(device, requested, memory);
    }
    use.allocated += bytes;
    use.requested += requested;
    use.blocks += 1;
    use.allocations += 1;
    use.peak_allocated = std::max(use.peak_allocated, use.allocated);
    use.highest_allocated = std::max(use.highest_allocated, use.allocated);
    const int64_t segments = (use.allocated + SEGMENT - 1) / SEGMENT * SEGMENT;
    use.reserved = std::max(use.reserved, segments);
    use.peak_reserved = std::max(use.peak_reserved, use.reserved);
    const uintptr_t first = FIRST_ADDRESS + device * ADDRESSES_OF_A_DEVICE;
    auto* address = reinterpret_cast<void*>(first + memory.used_addresses % ADDRESSES_OF_A_DEVICE);
    memory.used_addresses += bytes;
    return {address, new Block{device, bytes, requested}, &release, place};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, std::size_t) const override {}

 private:
  static void release_nothing(void*) {}
};

// Main memory that torch calls pinned, because copies from it do not stop the CPU.
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    c10::DataPtr data = c10::GetCPUAllocator()->allocate(size);
    void* address = data.get();
    auto* owner = new c10::DataPtr(std::move(data));
    const std::lock_guard lock(mutex);
    owners()[address] = {owner, size};
    return {address, address, &release_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* target, const void* source, std::size_t count) const override {
    default_copy_data(target, source, count);
  }

  static bool holds(const void* address) {
    const std::lock_guard lock(mutex);
    for (const auto& [begin, owner] : owners()) {
      const auto* first = static_cast<const char*>(begin);
      if (address >= first && address < first + owner.second) {
        return true;
      }
    }
    return false;
  }

 private:
  using Owners = std::unordered_map<void*, std::pair<c10::DataPtr*, size_t>>;

  static Owners& owners() {
    static auto* all = new Owners;
    return *all;
  }

  static void release_pinned(void* address) {
    c10::DataPtr* owner = nullptr;
    {
      const std::lock_guard lock(mutex);
      owner = owners()[address].first;
      owners().erase(address);
    }
    delete owner;
  }
};

}  // namespace

c10::Allocator* device_allocator() {
  static auto* allocator = new DeviceAllocator;
  return allocator;
}

c10::Allocator* pinned_allocator() {
  static auto* allocator = new PinnedAllocator;
  return allocator;
}

bool is_pinned(const void* address) { return PinnedAllocator::holds(address); }

ValuesPlace values_place(const at::Tensor& tensor) {
  const c10::DataPtr& data = tensor.storage().data_ptr();
  if (data.get_deleter() != &release) {
    return {};
  }
  auto* block = static_cast<Block*>(data.get_context());
  return {&block->values, block->requested};
}

MemoryUse memory_use(int device) {
  const std::lock_guard lock(mutex);
  return memories[device].use;
}

void reset_peak(int device) {
  const std::lock_guard lock(mutex);
  MemoryUse& use = memories[device].use;
  use.peak_allocated = use.allocated;
  use.peak_reserved = use.reserved;
}

void release_unused(int device) {
  const std::lock_guard lock(mutex);
  MemoryUse& use = memories[device].use;
  use.reserved = (use.allocated + SEGMENT - 1) / SEGMENT * SEGMENT;
}

void limit_memory(int device, double fraction) {
  const std::lock_guard lock(mutex);
  memories[device].fraction = fraction;
}

}  // namespace testbed
