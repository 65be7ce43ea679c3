#include "caching.h"

#include <c10/core/AllocatorConfig.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "device.h"

namespace testbed {

namespace {

constexpr int64_t MIB = 1 << 20;
constexpr int64_t LEAST_BLOCK = 512;
constexpr int64_t LARGEST_SMALL = MIB;         // larger blocks are large
constexpr int64_t SMALL_SEGMENT = 2 * MIB;     // and the pages of expandable segments
constexpr int64_t LARGE_SEGMENT = 20 * MIB;    // and the pages of expandable segments
constexpr int64_t LEAST_OWN_SEGMENT = 10 * MIB;  // blocks that get a segment for themselves
constexpr int64_t OWN_SEGMENT_UNIT = 2 * MIB;
constexpr int64_t LARGEST_UNSPLIT_REST = MIB;  // of large blocks
constexpr uintptr_t FIRST_ADDRESS = 0x700000000000;
constexpr uintptr_t ADDRESSES_OF_A_DEVICE = uintptr_t{1} << 40;

int64_t up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

int64_t segment_bytes(int64_t bytes) {
  if (bytes <= LARGEST_SMALL) {
    return SMALL_SEGMENT;
  }
  return bytes < LEAST_OWN_SEGMENT ? LARGE_SEGMENT : up(bytes, OWN_SEGMENT_UNIT);
}

int64_t page_bytes(bool is_small) { return is_small ? SMALL_SEGMENT : LARGE_SEGMENT; }

uint64_t pool_number(const PoolPtr& pool) { return pool == nullptr ? 0 : pool->number; }

bool is_free(const Block* block) { return block != nullptr && block->state == Block::State::free; }

bool is_unmapped(const Block* block) {
  return block != nullptr && block->state == Block::State::unmapped;
}

}  // namespace

void MemoryStatistics::add(Quantity quantity, bool is_small, int64_t amount) {
  auto& kinds = of[static_cast<int>(quantity)];
  for (const Kind kind : {Kind::all, is_small ? Kind::small : Kind::large}) {
    Statistic& statistic = kinds[static_cast<int>(kind)];
    statistic.current += amount;
    statistic.peak = std::max(statistic.peak, statistic.current);
    (amount > 0 ? statistic.allocated : statistic.freed) += std::abs(amount);
  }
  highest_allocated = std::max(highest_allocated, all(Quantity::allocated_bytes).current);
  highest_reserved = std::max(highest_reserved, all(Quantity::reserved_bytes).current);
}

void MemoryStatistics::reset_peaks() {
  for (auto& kinds : of) {
    for (Statistic& statistic : kinds) {
      statistic.peak = statistic.current;
    }
  }
}

void MemoryStatistics::reset_sums() {
  for (auto& kinds : of) {
    for (Statistic& statistic : kinds) {
      statistic.allocated = statistic.freed = 0;
    }
  }
  retries = out_of_memory_errors = driver_allocations = driver_frees = 0;
}

bool CachingAllocator::BySize::operator()(const Block* first, const Block* second) const {
  return std::tie(first->bytes, first->address) < std::tie(second->bytes, second->address);
}

bool CachingAllocator::ByAddress::operator()(const Block* first, const Block* second) const {
  return first->address < second->address;
}

CachingAllocator::Arena& CachingAllocator::arena_of(const Block& block) {
  return arenas_[{pool_number(block.pool), block.is_small, block.stream}];
}

Block* CachingAllocator::take(int device, int64_t requested, int64_t stream, const PoolPtr& pool,
                              int64_t limit) {
  const int64_t bytes = up(requested, LEAST_BLOCK);
  const bool is_small = bytes <= LARGEST_SMALL;
  const bool expandable = c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments();
  const Key key{pool_number(pool), is_small, stream};
  const Block like{Block::State::free, device, stream, pool, is_small, expandable, 0, 0, 0};
  Block* block = best_fit(key, bytes);
  if (block == nullptr) {
    block = expandable ? expanded(like, key, bytes, limit) : new_segment(like, bytes, limit);
  }
  if (block == nullptr) {
    return nullptr;
  }

  remove_free(block);
  const int64_t rest = block->bytes - bytes;
  const bool rest_is_usable =
      is_small || block->is_expandable ? rest >= LEAST_BLOCK : rest > LARGEST_UNSPLIT_REST;
  if (rest_is_usable) {
    split(block, bytes, Block::State::free);
  }
  block->state = Block::State::taken;
  block->requested = requested;
  statistics.add(Quantity::allocated_bytes, is_small, block->bytes);
  statistics.add(Quantity::active_bytes, is_small, block->bytes);
  statistics.add(Quantity::requested_bytes, is_small, requested);
  statistics.add(Quantity::allocation, is_small, 1);
  statistics.add(Quantity::active, is_small, 1);
  return block;
}

void CachingAllocator::end_use(Block* block) {
  block->state = Block::State::pending;
  statistics.add(Quantity::allocated_bytes, block->is_small, -block->bytes);
  statistics.add(Quantity::requested_bytes, block->is_small, -block->requested);
  statistics.add(Quantity::allocation, block->is_small, -1);
}

void CachingAllocator::make_free(Block* block) {
  statistics.add(Quantity::active_bytes, block->is_small, -block->bytes);
  statistics.add(Quantity::active, block->is_small, -1);
  block->other_streams.clear();
  if (is_free(block->previous)) {
    remove_free(block->previous);
    block = merge(block->previous, block);
  }
  if (is_free(block->next)) {
    remove_free(block->next);
    block = merge(block, block->next);
  }
  insert_free(block);
}

void CachingAllocator::release_unused() {
  std::vector<Block*> unused;
  for (auto& [key, arena] : arenas_) {
    for (Block* block : arena.free) {
      const bool is_needed = block->pool != nullptr && block->pool->graphs > 0;
      if (!is_needed && (block->is_expandable || !block->is_split())) {
        unused.push_back(block);
      }
    }
  }
  for (Block* block : unused) {
    if (block->is_expandable) {
      unmap(block);
      continue;
    }
    remove_free(block);
    statistics.add(Quantity::reserved_bytes, block->is_small, -block->bytes);
    statistics.add(Quantity::segment, block->is_small, -1);
    statistics.driver_frees += 1;
    delete block;
  }
}

Block* CachingAllocator::best_fit(const Key& key, int64_t bytes) {
  Block wanted{};
  wanted.bytes = bytes;
  auto& free = arenas_[key].free;
  const auto found = free.lower_bound(&wanted);
  return found == free.end() ? nullptr : *found;
}

Block* CachingAllocator::new_segment(const Block& like, int64_t bytes, int64_t limit) {
  const int64_t size = segment_bytes(bytes);
  if (statistics.all(Quantity::reserved_bytes).current + size > limit) {
    return nullptr;
  }
  auto* block = new Block(like);
  block->segment = block->address = new_addresses(like.device, size);
  block->bytes = size;
  statistics.add(Quantity::reserved_bytes, like.is_small, size);
  statistics.add(Quantity::segment, like.is_small, 1);
  statistics.driver_allocations += 1;
  insert_free(block);
  return block;
}

// Return a free block of an expandable segment, which gets more pages behind it.
Block* CachingAllocator::expanded(const Block& like, const Key& key, int64_t bytes, int64_t limit) {
  Block* block = growable(key, bytes);
  if (block == nullptr) {
    block = new Block(like);
    block->state = Block::State::unmapped;
    block->bytes = up(accelerator().memory_bytes * 9 / 8, LARGE_SEGMENT);
    block->segment = block->address = new_addresses(like.device, block->bytes);
    arenas_[key].unmapped.insert(block);
    statistics.add(Quantity::segment, like.is_small, 1);
  }

  const int64_t present = is_free(block) ? block->bytes : 0;
  const int64_t missing = up(bytes - present, page_bytes(like.is_small));
  if (statistics.all(Quantity::reserved_bytes).current + missing > limit) {
    return nullptr;
  }
  if (is_unmapped(block)) {
    block = map(block, bytes);
  }
  while (block->bytes < bytes) {
    block = map(block->next, bytes - block->bytes);
  }
  return block;
}

// Return the first block that is free or unmapped and has enough of both behind it; or null.
Block* CachingAllocator::growable(const Key& key, int64_t bytes) {
  const auto has_room = [bytes](const Block* block) {
    int64_t room = 0;
    while (is_free(block) || is_unmapped(block)) {
      room += block->bytes;
      block = block->next;
    }
    return room >= bytes;
  };
  for (Block* unmapped : arenas_[key].unmapped) {
    if (is_free(unmapped->previous) && has_room(unmapped->previous)) {
      return unmapped->previous;
    }
    if (has_room(unmapped)) {
      return unmapped;
    }
  }
  return nullptr;
}

// Put pages behind the beginning of an unmapped block; return the free block that they are in.
Block* CachingAllocator::map(Block* block, int64_t bytes) {
  arena_of(*block).unmapped.erase(block);
  const int64_t mapped = std::min(up(bytes, page_bytes(block->is_small)), block->bytes);
  if (block->bytes > mapped) {
    split(block, mapped, Block::State::unmapped);
  }
  statistics.add(Quantity::reserved_bytes, block->is_small, mapped);
  statistics.driver_allocations += 1;
  block->state = Block::State::free;
  if (is_free(block->previous)) {
    remove_free(block->previous);
    block = merge(block->previous, block);
  }
  if (is_free(block->next)) {
    remove_free(block->next);
    block = merge(block, block->next);
  }
  insert_free(block);
  return block;
}

// Return the whole pages of a free block to the driver.
void CachingAllocator::unmap(Block* block) {
  const int64_t page = page_bytes(block->is_small);
  const auto begin = static_cast<int64_t>(block->address - block->segment);
  const int64_t first = up(begin, page);
  const int64_t last = (begin + block->bytes) / page * page;
  if (first >= last) {
    return;
  }
  remove_free(block);
  if (first > begin) {
    Block* before = block;
    split(before, first - begin, Block::State::free);
    block = before->next;
    remove_free(block);
    insert_free(before);
  }
  if (block->bytes > last - first) {
    split(block, last - first, Block::State::free);
  }
  statistics.add(Quantity::reserved_bytes, block->is_small, first - last);
  statistics.driver_frees += 1;
  block->state = Block::State::unmapped;
  auto& unmapped = arena_of(*block).unmapped;
  if (is_unmapped(block->previous)) {
    unmapped.erase(block->previous);
    block = merge(block->previous, block);
  }
  if (is_unmapped(block->next)) {
    unmapped.erase(block->next);
    block = merge(block, block->next);
  }
  unmapped.insert(block);
}

// Cut a block that is in no set after `bytes`; the rest gets a state and is in the set for it.
void CachingAllocator::split(Block* block, int64_t bytes, Block::State state) {
  auto* rest = new Block{state,          block->device,        block->stream,
                         block->pool,    block->is_small,      block->is_expandable,
                         block->segment, block->address + bytes, block->bytes - bytes};
  rest->previous = block;
  rest->next = block->next;
  if (rest->next != nullptr) {
    rest->next->previous = rest;
  }
  block->next = rest;
  block->bytes = bytes;
  if (state == Block::State::free) {
    insert_free(rest);
  } else {
    arena_of(*rest).unmapped.insert(rest);
  }
}

// Join two neighbours that are in no set.
Block* CachingAllocator::merge(Block* first, Block* second) {
  first->bytes += second->bytes;
  first->next = second->next;
  if (first->next != nullptr) {
    first->next->previous = first;
  }
  delete second;
  return first;
}

void CachingAllocator::insert_free(Block* block) {
  block->state = Block::State::free;
  arena_of(*block).free.insert(block);
  if (block->is_split() && !block->is_expandable) {
    statistics.add(Quantity::inactive_split_bytes, block->is_small, block->bytes);
    statistics.add(Quantity::inactive_split, block->is_small, 1);
  }
}

void CachingAllocator::remove_free(Block* block) {
  arena_of(*block).free.erase(block);
  if (block->is_split() && !block->is_expandable) {
    statistics.add(Quantity::inactive_split_bytes, block->is_small, -block->bytes);
    statistics.add(Quantity::inactive_split, block->is_small, -1);
  }
}

uintptr_t CachingAllocator::new_addresses(int device, int64_t bytes) {
  const uintptr_t first = FIRST_ADDRESS + device * ADDRESSES_OF_A_DEVICE;
  const uintptr_t address = first + used_addresses_ % ADDRESSES_OF_A_DEVICE;
  used_addresses_ += up(bytes, SMALL_SEGMENT);
  return address;
}

}  // namespace testbed
