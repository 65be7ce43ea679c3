#include "tuning.h"

#include <algorithm>
#include <limits>

namespace testbed {

namespace {

// Latencies in us, for the protocols LL and simple: of an operation, of a step inside a host over
// NVLink, and of a step over the network.
struct Latency {
  double base[2];
  double local[2];
  double network[2];
};
constexpr Latency TREE = {{6.8, 8.4}, {0.6, 4.0}, {5.0, 14.0}};
constexpr Latency RING = {{6.6, 8.4}, {0.6, 3.4}, {2.7, 14.0}};
constexpr double TREE_SHARE = 0.92;    // of the bandwidth of a ring
constexpr double TREE_LL_SHARE = 1 / 3.8;
constexpr double RING_LL_SHARE = 0.5;
// us that the host takes for a step between hosts, three times as long for the simple protocol
constexpr double NETWORK_OVERHEAD[2] = {1, 3};
constexpr double OLDER_PLATEAU = 1.9;  // large all-reduces in rings have longer steps
constexpr double PLATEAU = 1.4;
constexpr int64_t LEAST_OF_PLATEAU = 64;  // bytes of each rank's part on a channel
constexpr int THREADS = 512;
constexpr int64_t LL_BYTES_PER_THREAD = 8;
constexpr int64_t SIMPLE_BYTES_PER_THREAD = 64;

// Rates in GB/s that NCCL's search for channels tries (src/graph/search.cc), and on newer devices.
constexpr double RATES[] = {48, 30, 28, 24, 20, 18, 15, 12, 10, 9, 7, 6, 5, 4, 3, 2.4, 1.2, 0.24, 0.12};
constexpr double HOPPER_RATES[] = {48, 45, 42, 40, 30, 24, 22, 20, 17.5, 15, 12, 6, 3, 2.4, 1.2, 0.24, 0.12};
constexpr double BLACKWELL_RATES[] = {96,   48, 45.1, 42, 40, 30,  24,  22,   20,
                                      17.5, 15, 12,   6,  3,  2.4, 1.2, 0.24, 0.12};

// Corrections of the bandwidth of trees for LL and simple, from 64 B on, for each doubling.
constexpr int CORRECTIONS = 23;
constexpr double CORRECTION[2][CORRECTIONS] = {
    {1, 1, 1, 1, .9, .8, .7, .7, .7, .7, .6, .5, .4, .4, .5, .6, .7, .8, .9, 1, 1, 1, 1},
    {.9, .9, .9, .9, .9, .9, .9, .8, .7, .6, .6, .5, .5, .5, .5, .6, .7, .8, .7, .7, .8, .9, .9}};

int log2_of(int64_t number) {
  int levels = 0;
  while ((int64_t{2} << levels) <= number) {
    levels += 1;
  }
  return levels;
}

double largest_below(const double* rates, size_t count, double card_gbytes) {
  for (size_t number = 0; number < count; ++number) {
    if (rates[number] <= card_gbytes) {
      return rates[number];
    }
  }
  return rates[count - 1];
}

double searched_rate(const Setting& setting) {
  if (setting.major >= 10) {
    return largest_below(BLACKWELL_RATES, std::size(BLACKWELL_RATES), setting.card_gbytes);
  }
  if (setting.major == 9) {
    return largest_below(HOPPER_RATES, std::size(HOPPER_RATES), setting.card_gbytes);
  }
  return largest_below(RATES, std::size(RATES), setting.card_gbytes);
}

// With one rank on each host no step inside a host hides the network: NCCL counts a tree's latency.
double network_us(const Latency& latency, int protocol, const Setting& setting) {
  return setting.ranks == setting.hosts ? TREE.network[protocol] : latency.network[protocol];
}

double ring_us(Algorithm algorithm, int64_t bytes, bool is_ll, const Setting& setting) {
  const int protocol = is_ll ? 0 : 1;
  int steps = setting.ranks;
  double latency = RING.base[protocol];
  if (algorithm == Algorithm::broadcast || algorithm == Algorithm::reduce) {
    latency += RING.network[protocol];
  } else {
    const int rounds = algorithm == Algorithm::all_reduce ? 2 : 1;
    steps = rounds * (setting.ranks - 1);
    const int network_steps = rounds * (setting.hosts - 1);
    const double local = std::max(RING.local[protocol], NETWORK_OVERHEAD[protocol]);
    const double network = network_us(RING, protocol, setting);
    latency += (steps - network_steps) * local + network_steps * network;
  }
  double gbytes = searched_rate(setting) * setting.ranks / steps;
  gbytes *= is_ll ? RING_LL_SHARE : 1;
  const bool is_plateau = bytes / (setting.channels * setting.ranks) >= LEAST_OF_PLATEAU;
  if (!is_ll && algorithm == Algorithm::all_reduce && is_plateau) {
    latency *= setting.major < 8 ? OLDER_PLATEAU : PLATEAU;
  }
  return latency + static_cast<double>(bytes) / (1000 * gbytes);
}

double tree_us(int64_t bytes, bool is_ll, const Setting& setting) {
  const int protocol = is_ll ? 0 : 1;
  double gbytes = searched_rate(setting) * TREE_SHARE / 2;
  gbytes *= is_ll ? TREE_LL_SHARE : 1;
  const int place = bytes >= 64 ? log2_of(bytes / 64) : -1;
  if (place >= 0 && place < CORRECTIONS) {
    gbytes *= CORRECTION[protocol][place];
  }
  const double local = (setting.ranks / setting.hosts - 1) * TREE.local[protocol];
  const double network = log2_of(setting.hosts) * network_us(TREE, protocol, setting);
  return TREE.base[protocol] + 2 * (local + network) + static_cast<double>(bytes) / (1000 * gbytes);
}

}  // namespace

// Fewer channels carry small operations: each thread of a channel gets a number of bytes at least.
int channels_for(int64_t bytes, const Choice& choice, const Setting& setting) {
  int64_t least = THREADS * (choice.is_ll ? LL_BYTES_PER_THREAD : SIMPLE_BYTES_PER_THREAD);
  if (choice.is_ll && !choice.is_tree) {
    least *= setting.ranks;
  }
  int channels = setting.channels;
  while (channels > 1 && bytes < channels * least) {
    channels -= 1;
  }
  return channels;
}

double modelled_us(Algorithm algorithm, int64_t bytes, bool is_tree, bool is_ll, const Setting& setting) {
  return is_tree ? tree_us(bytes, is_ll, setting) : ring_us(algorithm, bytes, is_ll, setting);
}

Choice choose(Algorithm algorithm, int64_t bytes, const Setting& setting) {
  Choice best{false, false, setting.channels};
  if (setting.hosts < 2) {
    return best;
  }
  const bool can_tree = algorithm == Algorithm::all_reduce && setting.may_tree;
  const bool can_ring = setting.may_ring || !can_tree;
  double least_us = std::numeric_limits<double>::infinity();
  for (const bool is_tree : {false, true}) {
    for (const bool is_ll : {true, false}) {
      const bool is_allowed = (is_tree ? can_tree : can_ring) && (is_ll ? setting.may_ll : setting.may_simple);
      const double us = modelled_us(algorithm, bytes, is_tree, is_ll, setting);
      if (is_allowed && us < least_us) {
        least_us = us;
        best = {is_tree, is_ll, 1};
      }
    }
  }
  best.channels = channels_for(bytes, best, setting);
  return best;
}

}  // namespace testbed
