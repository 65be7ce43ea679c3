// How NCCL chooses between rings and trees, and between its protocols: the one with the least time
// by its model of latencies and bandwidths (NCCL 2.27, src/graph/tuning.cc), which knows the rate of
// the network cards and nothing of the delays between hosts.
#pragma once

#include <cstdint>

#include "rings.h"

namespace testbed {

// What an operation uses.
struct Choice {
  bool is_tree = false;
  bool is_ll = false;
  int channels = 1;
};

// What the choice depends on.
struct Setting {
  int ranks = 1;
  int hosts = 1;
  double card_gbytes = 1.25;      // rate of a host's network card, in GB/s
  int major = 9;                  // of the compute capability
  int channels = 2;
  // Which algorithms and protocols the environment allows (NCCL_ALGO, NCCL_PROTO).
  bool may_ring = true;
  bool may_tree = true;
  bool may_simple = true;
  bool may_ll = true;
};

// Return the time in us by which NCCL compares.
double modelled_us(Algorithm algorithm, int64_t bytes, bool is_tree, bool is_ll, const Setting& setting);

// Return how many of the setting's channels carry an operation.
int channels_for(int64_t bytes, const Choice& choice, const Setting& setting);

// Return NCCL's choice; trees are for all-reduces between several hosts only.
Choice choose(Algorithm algorithm, int64_t bytes, const Setting& setting);

}  // namespace testbed
