#include "rings.h"

#include <algorithm>

namespace testbed {

namespace {

// A chunk of a ring has four steps of the buffer, in two slices; a chunk of a chain has one step.
constexpr int64_t RING_CHUNK_STEPS = 4;
constexpr int64_t LEAST_PART_OF_SLICE = 32;

bool is_chain(Algorithm algorithm) {
  return algorithm == Algorithm::broadcast || algorithm == Algorithm::reduce;
}

// Append the steps for one chunk, which its slices take one after another.
void add_chunk(std::vector<Step>& steps, int64_t chunk, int64_t largest_slice, bool receives, bool sends) {
  const int64_t half = (chunk + SLICES_OF_CHUNK - 1) / SLICES_OF_CHUNK;
  const int64_t slice = std::max(half, largest_slice / LEAST_PART_OF_SLICE);
  for (int64_t begin = 0; begin < chunk; begin += slice) {
    const int64_t size = std::min(slice, chunk - begin);
    steps.push_back({receives ? size : 0, sends ? size : 0});
  }
}

std::vector<Step> ring(int64_t bytes, int ranks, int hops, const Protocol& protocol) {
  const int64_t largest_chunk = (protocol.is_ll ? 1 : RING_CHUNK_STEPS) * protocol.step();
  const int64_t largest_slice = protocol.is_ll ? largest_chunk * LEAST_PART_OF_SLICE : largest_chunk / SLICES_OF_CHUNK;
  std::vector<Step> steps;
  int64_t left = bytes;
  while (left > 0) {  // a loop takes a chunk of each rank's part
    const int64_t chunk = std::min(largest_chunk, (left + ranks - 1) / ranks);
    add_chunk(steps, chunk, largest_slice, false, true);
    for (int hop = 1; hop < hops; ++hop) {
      add_chunk(steps, chunk, largest_slice, true, true);
    }
    add_chunk(steps, chunk, largest_slice, true, false);
    left -= chunk * ranks;
  }
  return steps;
}

std::vector<Step> chain(int64_t bytes, int ranks, int position, const Protocol& protocol) {
  std::vector<Step> steps;
  for (int64_t left = bytes; left > 0; left -= protocol.step()) {
    const int64_t slice = std::min(left, protocol.step());
    const bool is_first = position == 0;
    const bool is_last = position == ranks - 1;
    steps.push_back({is_first ? 0 : slice, is_last ? 0 : slice});
  }
  return steps;
}

}  // namespace

std::vector<Step> ring_steps(Algorithm algorithm, int64_t bytes, int ranks, int position, const Protocol& protocol) {
  if (is_chain(algorithm)) {
    return chain(bytes, ranks, position, protocol);
  }
  const int hops = algorithm == Algorithm::all_reduce ? 2 * (ranks - 1) : ranks - 1;
  return ring(bytes, ranks, hops, protocol);
}

size_t slices_in_buffer(Algorithm algorithm, const Protocol& protocol) {
  return is_chain(algorithm) || protocol.is_ll ? 8 : 4;
}

}  // namespace testbed
