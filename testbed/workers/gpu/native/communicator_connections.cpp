// The connections of a communicator.
#include "communicator.h"

#include <utility>

namespace testbed {

namespace {

// The first bytes on a connection.
struct Greeting {
  int32_t rank;
  int32_t channel;
};

std::string host_of(const std::string& place) { return place.substr(0, place.rfind(':')); }

}  // namespace

void Communicator::open_listener() {
  if (listener_ == nullptr) {
    listener_ = std::make_unique<Listener>(network_.address);
    store_->set(name_ + "/" + std::to_string(rank_), listener_->place());
  }
}

std::string Communicator::place_of(int peer) {
  auto& place = places_[peer];
  if (place.empty()) {
    place = store_->get_to_str(name_ + "/" + std::to_string(peer));
  }
  return place;
}

// Return the connection by which this rank, the last one of its host, takes a ring's data.
Communicator::Key Communicator::from_host_before(int channel) const {
  return {(chain_.ranks.front() + ranks_ - 1) % ranks_, HOST_CHANNEL + channel};
}

// Return the connection by which this rank passes a ring's data on to the rank on its right: inside
// the host, to a host with fewer ranks, or to the last rank of a host.
Communicator::Key Communicator::to_host_behind(int channel) const {
  const int right = (rank_ + 1) % ranks_;
  const ChainPlace behind = chain_of_rank(right, host_of_rank_);
  if (!behind.is_first(right)) {
    return {right, channel};
  }
  return {behind.ranks.back(), HOST_CHANNEL + channel};
}

// Connect this rank with its neighbours in a ring.
//
// Args:
//   has_chains: whether the last rank of each host takes the data for its host (host_chains.h).
void Communicator::connect_ring(bool has_chains) {
  const int right = (rank_ + 1) % ranks_;
  const int left = (rank_ + ranks_ - 1) % ranks_;
  const bool is_first = has_chains && chain_.is_first(rank_);
  const bool is_last = has_chains && chain_.is_last(rank_);
  std::vector<Key> outgoing;
  std::vector<Key> incoming;
  for (int channel = 0; channel < network_.protocol.channels; ++channel) {
    outgoing.push_back(has_chains ? to_host_behind(channel) : Key(right, channel));
    if (!is_first) {
      incoming.emplace_back(left, channel);
    }
    if (is_first) {
      incoming.emplace_back(chain_.ranks.back(), CHAIN_CHANNEL + 1 + channel);
    }
    if (is_last) {
      incoming.push_back(from_host_before(channel));
      outgoing.emplace_back(chain_.ranks.front(), CHAIN_CHANNEL + 1 + channel);
    }
  }
  if (has_chains && !chain_.ranks.empty() && !is_last) {
    outgoing.emplace_back(chain_.ranks.back(), CHAIN_CHANNEL);
  }
  if (is_last) {
    for (size_t place = 0; place + 1 < chain_.ranks.size(); ++place) {
      incoming.emplace_back(chain_.ranks[place], CHAIN_CHANNEL);
    }
  }
  connect_all(outgoing, incoming);
}

void Communicator::connect_trees() {
  const int channels = network_.protocol.channels;
  std::vector<Key> outgoing;
  std::vector<Key> incoming;
  for (int channel = 0; channel < channels; ++channel) {
    const TreePlace place = rank_in_tree(rank_, host_of_rank_, is_in_second_tree(channel));
    if (place.parent >= 0) {
      outgoing.emplace_back(place.parent, UP_CHANNEL + channel);
      incoming.emplace_back(place.parent, DOWN_CHANNEL + channel);
    }
    for (const int child : place.children) {
      outgoing.emplace_back(child, DOWN_CHANNEL + channel);
      incoming.emplace_back(child, UP_CHANNEL + channel);
    }
  }
  connect_all(outgoing, incoming);
}

void Communicator::connect_peers(const std::vector<int>& peers) {
  std::vector<Key> keys;
  for (const int peer : peers) {
    keys.emplace_back(peer, MESSAGE_CHANNEL);
  }
  connect_all(keys, keys);
}

// Connect what is not yet connected: first all own connections, then those of peers arrive.
void Communicator::connect_all(const std::vector<Key>& outgoing, const std::vector<Key>& incoming) {
  for (const Key& key : outgoing) {
    if (outgoing_.count(key) == 0) {
      open_listener();
      connect(key);
    }
  }
  for (const Key& key : incoming) {
    while (incoming_[key].sockets.size() < static_cast<size_t>(network_.sockets)) {
      open_listener();
      accept_one();
    }
    incoming_[key].is_local = host_of(place_of(key.first)) == network_.address;
  }
}

void Communicator::connect(Key key) {
  const std::string place = place_of(key.first);
  Connection connection;
  connection.is_local = host_of(place) == network_.address;
  for (int number = 0; number < network_.sockets; ++number) {
    const int socket = connection.is_local ? connect_locally(place) : connect_to(place);
    const Greeting greeting{rank_, key.second};
    write_all(socket, &greeting, sizeof greeting);
    connection.sockets.push_back(socket);
  }
  outgoing_[key] = connection;
}

void Communicator::accept_one() {
  const int socket = listener_->accept_one();
  Greeting greeting{};
  read_all(socket, &greeting, sizeof greeting);
  incoming_[{greeting.rank, greeting.channel}].sockets.push_back(socket);
}

}  // namespace testbed
