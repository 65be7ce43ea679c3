// Blocks of a device's memory, handed out by the rules of torch's caching allocator
// (c10/cuda/CUDACachingAllocator.cpp of torch 2.13), so that what is reserved, what is lost to
// fragmentation and when memory runs out are as on the device. Of PYTORCH_ALLOC_CONF,
// `expandable_segments` counts.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <tuple>

namespace testbed {

struct Values;

// Memory that graphs have allocated while they were captured, which nothing else may use.
struct Pool {
  int device;
  uint64_t number;
  int graphs = 0;  // that need the pool's memory
};
using PoolPtr = std::shared_ptr<Pool>;

// A part of a segment. Segments are what the driver hands out; `previous` and `next` are neighbours.
struct Block {
  enum class State { unmapped, free, pending, taken } state;
  int device;
  int64_t stream;
  PoolPtr pool;  // null: the memory that all may use
  bool is_small;
  bool is_expandable;
  uintptr_t segment;  // address of the segment
  uintptr_t address;
  int64_t bytes;
  int64_t requested = 0;
  Block* previous = nullptr;
  Block* next = nullptr;
  std::set<int64_t> other_streams = {};  // that use it, as by Tensor.record_stream
  std::shared_ptr<Values> values = nullptr;

  bool is_split() const { return previous != nullptr || next != nullptr; }
};

struct Statistic {
  int64_t current = 0;
  int64_t peak = 0;
  int64_t allocated = 0;
  int64_t freed = 0;
};

// The quantities of torch.cuda.memory_stats, in the order of cuda_memory.py.
enum class Quantity {
  allocated_bytes,
  reserved_bytes,
  active_bytes,
  requested_bytes,
  inactive_split_bytes,
  allocation,
  segment,
  active,
  inactive_split,
  count
};
constexpr int QUANTITIES = static_cast<int>(Quantity::count);
enum class Kind { all, small, large, count };
constexpr int KINDS = static_cast<int>(Kind::count);

struct MemoryStatistics {
  std::array<std::array<Statistic, KINDS>, QUANTITIES> of;
  int64_t retries = 0;  // after which unused segments were returned to the driver
  int64_t out_of_memory_errors = 0;
  int64_t driver_allocations = 0;
  int64_t driver_frees = 0;
  int64_t highest_allocated = 0;  // as the peak, which scripts may reset
  int64_t highest_reserved = 0;

  const Statistic& all(Quantity quantity) const { return of[static_cast<int>(quantity)][0]; }
  void add(Quantity quantity, bool is_small, int64_t amount);
  void reset_peaks();
  void reset_sums();
};

// The memory of one device. Calls need the lock of memory.cpp.
class CachingAllocator {
 public:
  // Take a block for `requested` bytes; null if nothing is free and a new segment would exceed
  // `limit` bytes.
  Block* take(int device, int64_t requested, int64_t stream, const PoolPtr& pool, int64_t limit);
  void end_use(Block* block);      // the tensor has ended; other streams may still use the block
  void make_free(Block* block);    // nothing uses the block
  void release_unused();           // as torch.cuda.empty_cache

  MemoryStatistics statistics;

 private:
  // Streams, pools of graphs, and small and large blocks do not share free memory.
  using Key = std::tuple<uint64_t, bool, int64_t>;
  struct BySize {
    bool operator()(const Block* first, const Block* second) const;
  };
  struct ByAddress {
    bool operator()(const Block* first, const Block* second) const;
  };
  struct Arena {
    std::set<Block*, BySize> free;
    std::set<Block*, ByAddress> unmapped;
  };

  Arena& arena_of(const Block& block);
  Block* best_fit(const Key& key, int64_t bytes);
  Block* new_segment(const Block& like, int64_t bytes, int64_t limit);
  Block* expanded(const Block& like, const Key& key, int64_t bytes, int64_t limit);
  Block* growable(const Key& key, int64_t bytes);
  Block* map(Block* unmapped, int64_t bytes);
  void unmap(Block* block);
  void split(Block* block, int64_t bytes, Block::State rest);
  Block* merge(Block* first, Block* second);
  void insert_free(Block* block);
  void remove_free(Block* block);
  uintptr_t new_addresses(int device, int64_t bytes);

  std::map<Key, Arena> arenas_;
  uintptr_t used_addresses_ = 0;
};

}  // namespace testbed
