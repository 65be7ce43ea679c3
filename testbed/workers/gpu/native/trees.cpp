#include "trees.h"

#include <algorithm>

namespace testbed {

namespace {

constexpr int64_t LARGE_CHUNK = 128 << 10;  // chunks above these sizes are halved while the tree has
constexpr int64_t MEDIUM_CHUNK = 64 << 10;  // too few chunks to work at all levels at once
constexpr int64_t SMALL_CHUNK = 32 << 10;

int log2_of(int number) {
  int levels = 0;
  while ((2 << levels) <= number) {
    levels += 1;
  }
  return levels;
}

// The first tree: a host with the lowest set bit b has the children host - b/2 and host + b/2.
TreePlace in_first_tree(int host, int hosts) {
  TreePlace place;
  int bit = 1;
  while (bit < hosts && (host & bit) == 0) {
    bit *= 2;
  }
  if (host == 0) {
    if (hosts > 1) {
      place.children.push_back(bit / 2);
    }
    return place;
  }
  const int above = (host ^ bit) | (bit * 2);
  place.parent = above < hosts ? above : host ^ bit;
  if (bit > 1) {
    place.children.push_back(host - bit / 2);
    int half = bit / 2;
    while (half > 0 && host + half >= hosts) {
      half /= 2;
    }
    if (half > 0) {
      place.children.push_back(host + half);
    }
  }
  return place;
}

}  // namespace

// The second tree is the first one shifted by a host, or mirrored if the number of hosts is even, so
// that inner hosts of one are leaves of the other.
TreePlace host_in_tree(int host, int hosts, bool is_second) {
  if (!is_second) {
    return in_first_tree(host, hosts);
  }
  const bool is_shifted = hosts % 2 == 1;
  const auto moved = [&](int number) { return is_shifted ? (number + hosts - 1) % hosts : hosts - 1 - number; };
  const auto moved_back = [&](int number) { return is_shifted ? (number + 1) % hosts : hosts - 1 - number; };
  TreePlace place = in_first_tree(moved(host), hosts);
  if (place.parent >= 0) {
    place.parent = moved_back(place.parent);
  }
  for (int& child : place.children) {
    child = moved_back(child);
  }
  return place;
}

TreePlace rank_in_tree(int rank, const std::vector<int>& host_of_rank, bool is_second) {
  const int hosts = 1 + *std::max_element(host_of_rank.begin(), host_of_rank.end());
  std::vector<std::vector<int>> ranks_of_host(hosts);
  for (size_t other = 0; other < host_of_rank.size(); ++other) {
    ranks_of_host[host_of_rank[other]].push_back(static_cast<int>(other));
  }
  const int host = host_of_rank[rank];
  const auto& here = ranks_of_host[host];
  const auto position = std::find(here.begin(), here.end(), rank) - here.begin();
  TreePlace place;
  if (position == 0) {
    const TreePlace of_host = host_in_tree(host, hosts, is_second);
    if (of_host.parent >= 0) {
      place.parent = ranks_of_host[of_host.parent][0];
    }
    for (const int child : of_host.children) {
      place.children.push_back(ranks_of_host[child][0]);
    }
  } else {
    place.parent = here[position - 1];
  }
  if (position + 1 < static_cast<std::ptrdiff_t>(here.size())) {
    place.children.push_back(here[position + 1]);
  }
  return place;
}

int tree_depth(int ranks, int hosts) { return std::max(1, ranks / hosts - 1 + log2_of(hosts)); }

std::vector<Step> tree_steps(int64_t bytes, int depth, bool receives, bool sends, const Protocol& protocol) {
  int64_t chunk = protocol.step();
  if (!protocol.is_ll) {
    while (bytes / chunk < depth * 8 && chunk > LARGE_CHUNK) {
      chunk /= 2;
    }
    while (bytes / chunk < depth * 4 && chunk > MEDIUM_CHUNK) {
      chunk /= 2;
    }
    while (bytes / chunk < depth && chunk > SMALL_CHUNK) {
      chunk /= 2;
    }
  }
  std::vector<Step> steps;
  for (int64_t left = bytes; left > 0; left -= chunk) {
    const int64_t slice = std::min(left, chunk);
    steps.push_back({receives ? slice : 0, sends ? slice : 0});
  }
  return steps;
}

}  // namespace testbed
