#include "host_chains.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace testbed {

namespace {

bool is_whole(const std::vector<char>& bytes) { return bytes.size() == sizeof(int64_t); }

int64_t time_of(const std::vector<char>& bytes) {
  int64_t time_ns = 0;
  memcpy(&time_ns, bytes.data(), sizeof time_ns);
  return time_ns;
}

// Read as much of a time as there is.
void read_time(int socket, std::vector<char>& bytes) {
  const size_t known = bytes.size();
  bytes.resize(sizeof(int64_t));
  const ssize_t size = recv(socket, bytes.data() + known, bytes.size() - known, MSG_DONTWAIT);
  bytes.resize(known + static_cast<size_t>(std::max<ssize_t>(size, 0)));
  if (size == 0) {
    throw std::runtime_error("a peer has closed the connection");
  }
  if (size < 0 && errno != EAGAIN && errno != EINTR) {
    throw std::runtime_error(std::string("recv: ") + strerror(errno));
  }
}

}  // namespace

ChainPlace chain_of_rank(int rank, const std::vector<int>& host_of_rank) {
  if (host_of_rank.empty()) {
    return {};
  }
  const auto ranks = static_cast<int>(host_of_rank.size());
  const int host = host_of_rank[rank];
  int first = rank;
  int length = 1;
  while (length < ranks && host_of_rank[(first + ranks - 1) % ranks] == host) {
    first = (first + ranks - 1) % ranks;
    length += 1;
  }
  if (length == ranks) {  // the ring does not leave the host
    return {};
  }
  ChainPlace place;
  for (int next = first; host_of_rank[next] == host; next = (next + 1) % ranks) {
    place.ranks.push_back(next);
  }
  return place.ranks.size() < 3 ? ChainPlace() : place;
}

HostChain::HostChain(std::vector<Member> members) : members_(std::move(members)) {
  for (Member& member : members_) {
    member.part.socket = member.socket;
  }
}

void HostChain::proceed(std::vector<Lane>& lanes, int64_t now) {
  for (Member& member : members_) {
    if (member.start_ns == 0 && member.part.is_ready) {
      read_time(member.socket, member.received);
      member.part.is_ready = false;
      member.start_ns = is_whole(member.received) ? time_of(member.received) : 0;
    }
  }
  for (size_t channel = 0; channel < lanes.size() && !members_.empty(); ++channel) {
    Lane* before = nullptr;
    for (Member& member : members_) {
      Lane& lane = member.lanes[channel];
      if (before != nullptr) {
        lane.learn(before->take_times());
      }
      if (member.start_ns > 0) {
        lane.proceed_from(member.start_ns, now);
      }
      before = &lane;
    }
    lanes[channel].learn(before->take_times());
  }
}

bool HostChain::is_over() const {
  if (members_.empty()) {
    return true;
  }
  const auto& lanes = members_.front().lanes;
  return std::all_of(lanes.begin(), lanes.end(), [](const Lane& lane) { return lane.has_run() && lane.has_sent(); });
}

std::vector<Lane::Part*> HostChain::parts_to_read() {
  std::vector<Lane::Part*> parts;
  for (Member& member : members_) {
    if (member.start_ns == 0) {
      parts.push_back(&member.part);
    }
  }
  if (!members_.empty() && members_.front().start_ns > 0) {
    for (Lane& lane : members_.front().lanes) {
      const auto of_lane = lane.parts_to_read();
      parts.insert(parts.end(), of_lane.begin(), of_lane.end());
    }
  }
  return parts;
}

std::vector<Lane::Part*> HostChain::parts_to_write() {
  std::vector<Lane::Part*> parts;
  if (!members_.empty()) {
    for (Lane& lane : members_.front().lanes) {
      const auto of_lane = lane.parts_to_write();
      parts.insert(parts.end(), of_lane.begin(), of_lane.end());
    }
  }
  return parts;
}

}  // namespace testbed
