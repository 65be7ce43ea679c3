#include "memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "device.h"
#include "graphs.h"
#include "timeline.h"
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
  PoolPtr pool = nullptr;
};

struct DeviceMemory {
  MemoryUse use;
  uintptr_t used_addresses = 0;
  double fraction = 1.0;
  int64_t held = 0;  // by pools, and free
};

std::mutex mutex;
DeviceMemory memories[MOST_DEVICES];
auto& pools = *new std::map<std::pair<int, uint64_t>, std::weak_ptr<Pool>>;

// Change what the tensors of a pool take; what they no longer take stays with the pool.
void change_live(Pool& pool, int64_t bytes) {
  int64_t& held = memories[pool.device].held;
  held -= pool.most - pool.live;
  pool.live += bytes;
  pool.most = pool.graphs > 0 ? std::max(pool.most, pool.live) : pool.live;
  held += pool.most - pool.live;
}

int64_t segments(const DeviceMemory& memory) {
  return (memory.use.allocated + memory.held + SEGMENT - 1) / SEGMENT * SEGMENT;
}

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
      size_text(total - memory.use.allocated - memory.held), " is free (modelled ", accelerator().name, "). Of the allocated memory ",
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
    if (block->pool != nullptr) {
      change_live(*block->pool, -block->bytes);
    }
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
    const auto graph = TimeLines::all().graph_of(device, current_stream(device));
    const PoolPtr pool = graph == nullptr ? nullptr : graph->pool();
    const std::lock_guard lock(mutex);
    DeviceMemory& memory = memories[device];
    MemoryUse& use = memory.use;
    const int64_t from_pool = pool == nullptr ? 0 : std::min(bytes, pool->most - pool->live);
    const auto limit = static_cast<int64_t>(memory.fraction * accelerator().usable_bytes);
    if (use.allocated + memory.held + bytes - from_pool > limit) {
      use.out_of_memory_errors += 1;
      refuse(device, requested, memory);
    }
    use.allocated += bytes;
    if (pool != nullptr) {
      change_live(*pool, bytes);
    }
    use.requested += requested;
    use.blocks += 1;
    use.allocations += 1;
    use.peak_allocated = std::max(use.peak_allocated, use.allocated);
    use.highest_allocated = std::max(use.highest_allocated, use.allocated);
    use.reserved = std::max(use.reserved, segments(memory));
    use.peak_reserved = std::max(use.peak_reserved, use.reserved);
    const uintptr_t first = FIRST_ADDRESS + device * ADDRESSES_OF_A_DEVICE;
    auto* address = reinterpret_cast<void*>(first + memory.used_addresses % ADDRESSES_OF_A_DEVICE);
    memory.used_addresses += bytes;
    return {address, new Block{device, bytes, requested, nullptr, pool}, &release, place};
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

PoolPtr pool_of(int device, uint64_t number) {
  const std::lock_guard lock(mutex);
  auto& known = pools[{device, number}];
  PoolPtr pool = known.lock();
  if (pool == nullptr) {
    pool = std::make_shared<Pool>(Pool{device});
    known = pool;
  }
  return pool;
}

void hold_pool(const PoolPtr& pool) {
  const std::lock_guard lock(mutex);
  pool->graphs += 1;
}

void release_pool(const PoolPtr& pool) {
  const std::lock_guard lock(mutex);
  pool->graphs -= 1;
  change_live(*pool, 0);
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
  memories[device].use.reserved = segments(memories[device]);
}

void limit_memory(int device, double fraction) {
  const std::lock_guard lock(mutex);
  memories[device].fraction = fraction;
}

}  // namespace testbed
