// NCCL's ring algorithms as the steps of one channel (NCCL 2.27, src/device/*.h).
#pragma once

#include <cstdint>
#include <vector>

#include "transfer.h"

namespace testbed {

constexpr int64_t SLICES_OF_CHUNK = 2;

enum class Algorithm { all_reduce, all_gather, reduce_scatter, broadcast, reduce };

// A protocol of NCCL, in bytes: "simple", or "LL" (low latency), which sends a flag of 8 bytes with
// every 8 bytes, in a buffer of its own size.
struct Protocol {
  int64_t buffer = 4 << 20;  // NCCL_BUFFSIZE, of a channel to one neighbour
  int channels = 2;
  bool is_ll = false;
  int64_t step() const { return is_ll ? LL_STEP : buffer / 8; }  // NCCL_STEPS
  static constexpr int64_t LL_STEP = 32 << 10;  // data of 512 threads with 8 lines each
};

// Return the steps of one rank on one channel.
//
// Args:
//   algorithm: the operation.
//   bytes: bytes of the whole tensor on this channel.
//   ranks: ranks in the ring.
//   position: this rank's place behind the root, from 0; only for broadcast and reduce.
//   protocol: sizes of chunks.
std::vector<Step> ring_steps(Algorithm algorithm, int64_t bytes, int ranks, int position,
                             const Protocol& protocol);

// Return the number of slices that fit between kernel and network.
size_t slices_in_buffer(Algorithm algorithm, const Protocol& protocol);

}  // namespace testbed
