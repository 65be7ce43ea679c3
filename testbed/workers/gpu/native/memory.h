// Memory of the modelled devices: blocks have addresses and sizes, and no memory behind them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

#include <cstdint>
#include <memory>

namespace testbed {

// What torch.cuda reports of a device, in bytes.
struct MemoryUse {
  int64_t allocated = 0;
  int64_t peak_allocated = 0;
  int64_t highest_allocated = 0;  // as the peak, which scripts may reset
  int64_t reserved = 0;
  int64_t peak_reserved = 0;
  int64_t requested = 0;
  int64_t blocks = 0;
  int64_t allocations = 0;
  int64_t out_of_memory_errors = 0;
};

// Memory that graphs have allocated while they were captured, which nothing else may use.
struct Pool {
  int device;
  int64_t live = 0;  // bytes of tensors
  int64_t most = 0;  // bytes that the pool keeps
  int graphs = 0;    // that need what the pool keeps
};
using PoolPtr = std::shared_ptr<Pool>;
PoolPtr pool_of(int device, uint64_t number);
void hold_pool(const PoolPtr& pool);  // for a graph
void release_pool(const PoolPtr& pool);

c10::Allocator* device_allocator();
c10::Allocator* pinned_allocator();
bool is_pinned(const void* address);

struct Values;

// What memory.cpp keeps for the values of a block (values.h).
struct ValuesPlace {
  std::shared_ptr<Values>* values = nullptr;  // null: the tensor has no memory on a device
  int64_t bytes = 0;                          // of the block
};
ValuesPlace values_place(const at::Tensor& tensor);

MemoryUse memory_use(int device);
void reset_peak(int device);
void release_unused(int device);  // as torch.cuda.empty_cache
void limit_memory(int device, double fraction);

}  // namespace testbed
