// NCCL's double binary trees of hosts, and the steps of one channel of a tree (NCCL 2.27,
// src/graph/trees.cc; Sanders, Speck, Traff, "Two-tree algorithms for full bandwidth broadcast,
// reduction and scan", 2009).
#pragma once

#include <cstdint>
#include <vector>

#include "rings.h"

namespace testbed {

// The neighbours of a rank in a tree; -1: none.
struct TreePlace {
  int parent = -1;
  std::vector<int> children;
};

// Return the place of a host among hosts in the first or the second tree.
TreePlace host_in_tree(int host, int hosts, bool is_second);

// Return the place of a rank: hosts are in a tree, the ranks of a host in a chain below its first.
//
// Args:
//   rank: the rank.
//   host_of_rank: the host of each rank, by numbers from 0 in the order of their first ranks.
//   is_second: which of the two trees.
TreePlace rank_in_tree(int rank, const std::vector<int>& host_of_rank, bool is_second);

// Return the most hops from a rank to the root, as NCCL counts them.
int tree_depth(int ranks, int hosts);

// Return the steps in which `bytes` pass a rank on one channel.
//
// Args:
//   bytes: bytes of the whole tensor on this channel.
//   depth: of the tree.
//   receives: whether the rank takes slices.
//   sends: whether the rank passes slices on.
//   protocol: sizes of chunks.
std::vector<Step> tree_steps(int64_t bytes, int depth, bool receives, bool sends, const Protocol& protocol);

}  // namespace testbed
