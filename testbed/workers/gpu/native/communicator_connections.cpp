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

void Communicator::connect_ring() {
  const int right = (rank_ + 1) % ranks_;
  const int left = (rank_ + ranks_ - 1) % ranks_;
  std::vector<Key> outgoing;
  std::vector<Key> incoming;
  for (int channel = 0; channel < network_.protocol.channels; ++channel) {
    outgoing.emplace_back(right, channel);
    incoming.emplace_back(left, channel);
    if (chain_.is_first(rank_)) {
      outgoing.emplace_back(chain_.ranks.back(), CHAIN_CHANNEL + 1 + channel);
    }
    if (chain_.is_last(rank_)) {
      incoming.emplace_back(chain_.ranks.front(), CHAIN_CHANNEL + 1 + channel);
    }
  }
  for (const int rank : chain_.ranks) {
    if (chain_.is_last(rank_) && chain_.is_between(rank)) {
      incoming.emplace_back(rank, CHAIN_CHANNEL);
    }
  }
  if (chain_.is_between(rank_)) {
    outgoing.emplace_back(chain_.ranks.back(), CHAIN_CHANNEL);
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
