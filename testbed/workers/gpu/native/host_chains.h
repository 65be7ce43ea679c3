// Ranks of one host that follow each other in a ring that leaves the host. Only the first one takes
// data from another host, and only the last one passes data on to another one. When the ranks between
// them do so follows from the time at which a slice reaches the first one. So one process, the last
// rank's, takes the host's data and sends it, and works out the rest; the other ranks learn the times
// later, all at once.
#pragma once

#include <cstdint>
#include <vector>

#include "transfer.h"

namespace testbed {

// A rank's host in a ring.
struct ChainPlace {
  std::vector<int> ranks;  // from the first to the last; nothing: there is no rank between
  bool is_first(int rank) const { return !ranks.empty() && rank == ranks.front(); }
  bool is_last(int rank) const { return !ranks.empty() && rank == ranks.back(); }
};

// Return the place of a rank in a ring in the order of ranks.
//
// Args:
//   rank: the rank.
//   host_of_rank: number of the host of each rank; nothing if it is not known.
ChainPlace chain_of_rank(int rank, const std::vector<int>& host_of_rank);

// The ranks before the last one, as the last one sees them during an operation.
class HostChain {
 public:
  // A rank: the socket from it, and its lanes, one for each channel.
  struct Member {
    int socket;
    std::vector<Lane> lanes;
    int64_t start_ns = 0;  // 0: it has not begun the operation
    std::vector<char> received = {};
    Lane::Part part{};
  };

  HostChain() = default;
  explicit HostChain(std::vector<Member> members);

  // Work out when slices reach the lanes of this rank, as far as that is known.
  void proceed(std::vector<Lane>& lanes, int64_t now);
  bool is_over() const;  // the first rank knows when all of its slices have arrived
  std::vector<Lane::Part*> parts_to_read();
  std::vector<Lane::Part*> parts_to_write();

 private:
  std::vector<Member> members_;
};

}  // namespace testbed
