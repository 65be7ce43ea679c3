#include "memory.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <set>
#include <unordered_map>
#include <vector>

#include "device.h"
#include "graphs.h"
#include "timeline.h"
#include "values.h"

namespace testbed {

namespace {

// A block whose tensor has ended, and the work of other streams that may still use it.
struct Pending {
  Block* block;
  std::vector<MarkerPtr> uses;
};

struct DeviceMemory {
  CachingAllocator blocks;
  std::vector<Pending> pending;
  double fraction = 1.0;
};

std::mutex mutex;
DeviceMemory memories[MOST_DEVICES];
auto& pools = *new std::map<std::pair<int, uint64_t>, std::weak_ptr<Pool>>;

std::string size_text(int64_t bytes) {
  char text[32];
  const double gib = static_cast<double>(bytes) / (1 << 30);
  const double mib = static_cast<double>(bytes) / (1 << 20);
  snprintf(text, sizeof text, gib >= 1 ? "%.2f GiB" : "%.2f MiB", gib >= 1 ? gib : mib);
  return text;
}

void refuse(int device, int64_t wanted, const MemoryStatistics& statistics) {
  const int64_t total = accelerator().memory_bytes;
  const int64_t allocated = statistics.all(Quantity::allocated_bytes).current;
  const int64_t reserved = statistics.all(Quantity::reserved_bytes).current;
  TORCH_CHECK_WITH(
      OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", size_text(wanted),
      ". GPU ", device, " has a total capacity of ", size_text(total), " of which ",
      size_text(accelerator().usable_bytes - reserved), " is free (modelled ", accelerator().name,
      "). Of the allocated memory ", size_text(allocated), " is allocated by PyTorch, and ",
      size_text(reserved - allocated),
      " is reserved by PyTorch but unallocated. If that is much, memory is fragmented: try "
      "PYTORCH_ALLOC_CONF=expandable_segments:True.");
}

// Make the pending blocks free whose uses have ended; with `wait`, all of them.
void free_pending(int device, bool wait) {
  std::vector<Pending> pending;
  {
    const std::lock_guard lock(mutex);
    pending.swap(memories[device].pending);
  }
  if (pending.empty()) {
    return;
  }
  std::vector<Block*> unused;
  std::vector<Pending> used;
  for (Pending& one : pending) {
    bool is_used = false;
    for (const MarkerPtr& use : one.uses) {
      if (wait) {
        TimeLines::all().wait_until_reached(use);
      }
      is_used = is_used || !TimeLines::all().is_reached(use);
    }
    if (is_used) {
      used.push_back(std::move(one));
    } else {
      unused.push_back(one.block);
    }
  }
  const std::lock_guard lock(mutex);
  for (Block* block : unused) {
    memories[device].blocks.make_free(block);
  }
  auto& still = memories[device].pending;
  still.insert(still.begin(), used.begin(), used.end());
}

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  const std::shared_ptr<Values> values = std::move(block->values);  // ends without the lock
  std::set<int64_t> streams;
  {
    const std::lock_guard lock(mutex);
    streams.swap(block->other_streams);
  }
  std::vector<MarkerPtr> uses;
  for (const int64_t stream : streams) {
    if (!TimeLines::all().is_captured(block->device, stream)) {
      uses.push_back(TimeLines::all().record(block->device, stream));
    }
  }
  const std::lock_guard lock(mutex);
  DeviceMemory& memory = memories[block->device];
  memory.blocks.end_use(block);
  if (uses.empty()) {
    memory.blocks.make_free(block);
  } else {
    memory.pending.push_back({block, std::move(uses)});
  }
}

// Take a block; a retry first returns unused segments to the driver, and raises if that is too little.
Block* take(int device, int64_t bytes, int64_t stream, const PoolPtr& pool, bool is_retry) {
  const std::lock_guard lock(mutex);
  DeviceMemory& memory = memories[device];
  MemoryStatistics& statistics = memory.blocks.statistics;
  if (is_retry) {
    statistics.retries += 1;
    memory.blocks.release_unused();
  }
  const auto limit = static_cast<int64_t>(memory.fraction * accelerator().usable_bytes);
  Block* block = memory.blocks.take(device, bytes, stream, pool, limit);
  if (block == nullptr && is_retry) {
    statistics.out_of_memory_errors += 1;
    refuse(device, bytes, statistics);
  }
  return block;
}

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    const int device = current_device();
    const c10::Device place(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
    if (size == 0) {
      return {nullptr, nullptr, &release_nothing, place};
    }
    const int64_t stream = current_stream(device);
    const auto graph = TimeLines::all().graph_of(device, stream);
    const PoolPtr pool = graph == nullptr ? nullptr : graph->pool();
    const auto bytes = static_cast<int64_t>(size);
    free_pending(device, false);
    Block* block = take(device, bytes, stream, pool, false);
    if (block == nullptr) {
      free_pending(device, true);
      block = take(device, bytes, stream, pool, true);
    }
    return {reinterpret_cast<void*>(block->address), block, &release, place};
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

Block* block_of(const at::Tensor& tensor) {
  const c10::DataPtr& data = tensor.storage().data_ptr();
  return data.get_deleter() == &release ? static_cast<Block*>(data.get_context()) : nullptr;
}

ValuesPlace values_place(const at::Tensor& tensor) {
  Block* block = block_of(tensor);
  if (block == nullptr) {
    return {};
  }
  return {&block->values, block->requested};
}

PoolPtr pool_of(int device, uint64_t number) {
  const std::lock_guard lock(mutex);
  auto& known = pools[{device, number}];
  PoolPtr pool = known.lock();
  if (pool == nullptr) {
    pool = std::make_shared<Pool>(Pool{device, number});
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
}

void record_use(const at::Tensor& tensor, int64_t stream) {
  Block* block = tensor.has_storage() ? block_of(tensor) : nullptr;
  if (block == nullptr) {
    return;
  }
  const std::lock_guard lock(mutex);
  if (stream != block->stream) {
    block->other_streams.insert(stream);
  }
}

MemoryStatistics memory_statistics(int device) {
  free_pending(device, false);
  const std::lock_guard lock(mutex);
  return memories[device].blocks.statistics;
}

void reset_peaks(int device) {
  const std::lock_guard lock(mutex);
  memories[device].blocks.statistics.reset_peaks();
}

void reset_sums(int device) {
  const std::lock_guard lock(mutex);
  memories[device].blocks.statistics.reset_sums();
}

void release_unused(int device) {
  free_pending(device, true);
  const std::lock_guard lock(mutex);
  memories[device].blocks.release_unused();
}

void limit_memory(int device, double fraction) {
  const std::lock_guard lock(mutex);
  memories[device].fraction = fraction;
}

}  // namespace testbed
