// Memory of the modelled devices: blocks have addresses and sizes, and no memory behind them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

#include <cstdint>
#include <memory>

#include "caching.h"

namespace testbed {

PoolPtr pool_of(int device, uint64_t number);
void hold_pool(const PoolPtr& pool);  // for a graph
void release_pool(const PoolPtr& pool);

c10::Allocator* device_allocator();
c10::Allocator* pinned_allocator();
bool is_pinned(const void* address);

// What memory.cpp keeps for the values of a block (values.h).
struct ValuesPlace {
  std::shared_ptr<Values>* values = nullptr;  // null: the tensor has no memory on a device
  int64_t bytes = 0;                          // of the block
};
ValuesPlace values_place(const at::Tensor& tensor);

// Keep the memory of a tensor that ends until a stream has done the work that it has by then.
void record_use(const at::Tensor& tensor, int64_t stream);

MemoryStatistics memory_statistics(int device);
void reset_peaks(int device);
void reset_sums(int device);
void release_unused(int device);  // as torch.cuda.empty_cache
void limit_memory(int device, double fraction);

}  // namespace testbed
