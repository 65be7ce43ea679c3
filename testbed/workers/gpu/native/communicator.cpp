#include "communicator.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "clock.h"
#include "device.h"

namespace testbed {

namespace {

constexpr int64_t NS_PER_S = 1'000'000'000;
constexpr int64_t NS_PER_MS = 1'000'000;
constexpr int64_t FIRST_STREAM = 1000;        // above those of torch's pool
constexpr int64_t MESSAGE_SLICE = 128 << 10;  // NCCL_P2P_NET_CHUNKSIZE
constexpr size_t MESSAGE_SLICES = 8;
constexpr size_t TREE_SLICES = 8;

std::atomic<int64_t> streams{FIRST_STREAM};

std::vector<Step> message_steps(int64_t bytes, bool is_sent) {
  std::vector<Step> steps;
  for (int64_t left = bytes; left > 0; left -= MESSAGE_SLICE) {
    const int64_t slice = std::min(left, MESSAGE_SLICE);
    steps.push_back({is_sent ? 0 : slice, is_sent ? slice : 0});
  }
  return steps;
}

// The root of a broadcast ends before others begin.
bool is_rooted(Algorithm algorithm) {
  return algorithm == Algorithm::broadcast || algorithm == Algorithm::reduce;
}

int64_t share_of_channel(int64_t bytes, int channel, int channels) {
  return bytes / channels + (channel < bytes % channels ? 1 : 0);
}

// Return the number of the host of each rank of a group; nothing if a rank is unknown.
std::vector<int> hosts_of_group(const std::vector<std::string>& hosts, const std::vector<uint64_t>& global_ranks,
                                int ranks) {
  std::vector<int> numbers;
  std::map<std::string, int> known;
  for (int rank = 0; rank < ranks; ++rank) {
    const size_t global = global_ranks.empty() ? static_cast<size_t>(rank) : global_ranks[rank];
    if (global >= hosts.size()) {
      return {};
    }
    numbers.push_back(known.emplace(hosts[global], static_cast<int>(known.size())).first->second);
  }
  return numbers;
}

}  // namespace

Communicator::Communicator(c10::intrusive_ptr<c10d::Store> store, std::string name, int rank, int ranks, int device,
                           Network network, const std::vector<uint64_t>& global_ranks)
    : store_(std::move(store)),
      name_(std::move(name)),
      rank_(rank),
      ranks_(ranks),
      device_(device),
      stream_(streams++),
      network_(std::move(network)),
      host_of_rank_(hosts_of_group(network_.hosts, global_ranks, ranks)),
      chain_(chain_of_rank(rank, host_of_rank_)),
      timeout_ns_(network_.timeout_ns) {
  network_.setting.ranks = ranks;
  network_.setting.hosts = host_of_rank_.empty() ? ranks : 1 + *std::max_element(host_of_rank_.begin(), host_of_rank_.end());
  network_.setting.channels = network_.protocol.channels;
  network_.setting.may_tree &= !host_of_rank_.empty();
  worker_ = std::thread([this] { work(); });
}

// The first half of the channels has the first tree, the others the second one.
bool Communicator::is_in_second_tree(int channel) const {
  const int channels = network_.protocol.channels;
  return channels > 1 && 2 * channel >= channels;
}

Communicator::~Communicator() {
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    changed_.notify_all();
  }
  worker_.join();
  for (const auto* connections : {&outgoing_, &incoming_}) {
    for (const auto& [key, connection] : *connections) {
      for (const int socket : connection.sockets) {
        close(socket);
      }
    }
  }
}

std::shared_ptr<Operation> Communicator::run(Algorithm algorithm, int64_t bytes, int root, std::string name,
                                             Listeners listeners) {
  auto operation = std::make_shared<Operation>();
  operation->name = std::move(name);
  operation->listeners = std::move(listeners);
  if (ranks_ > 1 && bytes > 0) {
    const Choice choice = choose(algorithm, bytes, network_.setting);
    Protocol protocol = network_.protocol;
    protocol.channels = choice.channels;
    protocol.is_ll = choice.is_ll;
    operation->held = held_by(bytes, choice);
    if (choice.is_tree) {
      connect_trees();
      operation->lanes = tree_lanes(bytes, protocol);
    } else {
      connect_ring(!is_rooted(algorithm));
      operation->lanes = ring_lanes(algorithm, bytes, root, protocol);
      if (!is_rooted(algorithm) && chain_.is_last(rank_)) {
        operation->chain = neighbours(algorithm, bytes, protocol);
      }
    }
  }
  return enqueue(std::move(operation));
}

std::shared_ptr<Operation> Communicator::run_call(std::function<void(std::chrono::milliseconds)> call,
                                                  std::string name, Listeners listeners) {
  auto operation = std::make_shared<Operation>();
  operation->name = std::move(name);
  operation->listeners = std::move(listeners);
  operation->call = std::move(call);
  return enqueue(std::move(operation));
}

// Return what the kernel of an operation holds: a multiprocessor for each channel, of which NCCL has
// more inside a host than lanes are modelled, and there the rate at which it reads or writes memory:
// each byte of a ring at least once. Between hosts that rate is small.
Occupancy Communicator::held_by(int64_t bytes, const Choice& choice) const {
  if (network_.setting.hosts > 1) {
    return {choice.channels, 0};
  }
  Setting local = network_.setting;
  local.channels = network_.local_channels;
  return {channels_for(bytes, choice, local), network_.wire.local_bytes_per_ns};
}

Wire Communicator::ring_wire(const Protocol& protocol) const {
  Wire wire = network_.wire;
  wire.local_bytes_per_ns /= protocol.channels;
  wire.per_byte = protocol.is_ll ? 2 : 1;
  return wire;
}

std::function<std::vector<Lane>()> Communicator::ring_lanes(Algorithm algorithm, int64_t bytes, int root,
                                                            Protocol protocol) {
  // a chain begins at the root of a broadcast, and ends at the root of a reduction
  const int first = algorithm == Algorithm::reduce ? root + 1 : root;
  const int position = (rank_ - first + 2 * ranks_) % ranks_;
  return [this, algorithm, bytes, position, protocol] {
    const bool has_chain = !is_rooted(algorithm) && !chain_.ranks.empty();
    const int left = (rank_ + ranks_ - 1) % ranks_;
    const int channels = protocol.channels;
    if (has_chain && !chain_.is_last(rank_)) {
      const int64_t start_ns = now_ns();
      write_all(outgoing_[{chain_.ranks.back(), CHAIN_CHANNEL}].sockets[0], &start_ns, sizeof start_ns);
    }
    std::vector<Lane> lanes;
    for (int channel = 0; channel < channels; ++channel) {
      auto steps = ring_steps(algorithm, share_of_channel(bytes, channel, channels), ranks_, position, protocol);
      const size_t slices = slices_in_buffer(algorithm, protocol);
      if (has_chain) {
        lanes.push_back(chain_lane(std::move(steps), slices, channel, ring_wire(protocol)));
      } else {
        const Key target = is_rooted(algorithm) ? Key((rank_ + 1) % ranks_, channel) : to_host_behind(channel);
        lanes.emplace_back(std::vector{&incoming_[{left, channel}]}, std::vector{&outgoing_[target]},
                           std::move(steps), slices, ring_wire(protocol));
      }
    }
    return lanes;
  };
}

// Return this rank's lane in a ring in which its host has ranks between the first and the last.
Lane Communicator::chain_lane(std::vector<Step> steps, size_t slices_in_buffer, int channel, const Wire& wire) {
  if (chain_.is_last(rank_)) {
    Connection* behind = &outgoing_[to_host_behind(channel)];
    return {{nullptr}, {behind}, std::move(steps), slices_in_buffer, wire};
  }
  const bool is_first = chain_.is_first(rank_);
  const Key left = {(rank_ + ranks_ - 1) % ranks_, channel};
  const Key arrivals = {chain_.ranks.back(), CHAIN_CHANNEL + 1 + channel};
  Connection* source = &incoming_[is_first ? arrivals : left];
  Connection* target = &outgoing_[{(rank_ + 1) % ranks_, channel}];
  Lane lane({source}, {target}, std::move(steps), slices_in_buffer, wire);
  if (is_first) {
    lane.send_late(0, SLICES_OF_CHUNK * chain_.ranks.size());  // a rank ends a chunk before the one in front of it
  }
  if (chain_.is_last((rank_ + 1) % ranks_)) {
    lane.hold_times(0);  // the last rank knows them
  }
  return lane;
}

// Return the ranks of this host before the last one, which this rank is.
std::function<HostChain()> Communicator::neighbours(Algorithm algorithm, int64_t bytes, Protocol protocol) {
  return [this, algorithm, bytes, protocol] {
    const int channels = protocol.channels;
    std::vector<HostChain::Member> members;
    for (size_t place = 0; place + 1 < chain_.ranks.size(); ++place) {
      HostChain::Member member{incoming_[{chain_.ranks[place], CHAIN_CHANNEL}].sockets[0], {}};
      for (int channel = 0; channel < channels; ++channel) {
        auto steps = ring_steps(algorithm, share_of_channel(bytes, channel, channels), ranks_, 0, protocol);
        std::vector<Connection*> sources{nullptr};
        std::vector<Connection*> targets{nullptr};
        if (place == 0) {
          sources = {&incoming_[from_host_before(channel)]};
          targets.push_back(&outgoing_[{chain_.ranks.front(), CHAIN_CHANNEL + 1 + channel}]);
        }
        Lane lane(std::move(sources), std::move(targets), std::move(steps), slices_in_buffer(algorithm, protocol),
                  ring_wire(protocol));
        lane.hold_times(0);
        if (place == 0) {
          lane.tell_arrivals(1, SLICES_OF_CHUNK * (chain_.ranks.size() + 1));
        }
        member.lanes.push_back(std::move(lane));
      }
      members.push_back(std::move(member));
    }
    return HostChain(std::move(members));
  };
}

std::function<std::vector<Lane>()> Communicator::tree_lanes(int64_t bytes, Protocol protocol) {
  return [this, bytes, protocol] {
    const int channels = protocol.channels;
    std::vector<Lane> lanes;
    for (int channel = 0; channel < channels; ++channel) {
      const TreePlace place = rank_in_tree(rank_, host_of_rank_, is_in_second_tree(channel));
      const int64_t share = bytes / channels + (channel < bytes % channels ? 1 : 0);
      lanes.push_back(tree_lane(place, channel, share, protocol, true));
      if (place.parent >= 0) {
        lanes.push_back(tree_lane(place, channel, share, protocol, false));
      }
    }
    return lanes;
  };
}

// Return the way up, where sums go to the parent, or the way down; at the root both are one.
Lane Communicator::tree_lane(const TreePlace& place, int channel, int64_t bytes, const Protocol& protocol, bool is_up) {
  std::vector<Connection*> children;
  for (const int child : place.children) {
    children.push_back(is_up ? &incoming_[{child, UP_CHANNEL + channel}] : &outgoing_[{child, DOWN_CHANNEL + channel}]);
  }
  std::vector<Connection*> beyond;
  if (place.parent >= 0) {
    beyond.push_back(is_up ? &outgoing_[{place.parent, UP_CHANNEL + channel}]
                           : &incoming_[{place.parent, DOWN_CHANNEL + channel}]);
  } else {
    for (const int child : place.children) {
      beyond.push_back(&outgoing_[{child, DOWN_CHANNEL + channel}]);
    }
  }
  auto sources = is_up ? children : beyond;
  auto targets = is_up ? beyond : children;
  Wire wire = network_.wire;
  wire.local_bytes_per_ns /= protocol.channels;
  wire.per_byte = protocol.is_ll ? 2 : 1;
  const int depth = tree_depth(ranks_, network_.setting.hosts);
  auto steps = tree_steps(bytes, depth, !sources.empty(), !targets.empty(), protocol);
  return {std::move(sources), std::move(targets), std::move(steps), TREE_SLICES, wire};
}

std::shared_ptr<Operation> Communicator::exchange(std::vector<Message> sent, std::vector<Message> received,
                                                  std::string name, Listeners listeners) {
  std::vector<int> peers;
  for (const auto* messages : {&sent, &received}) {
    for (const Message& message : *messages) {
      if (message.peer != rank_) {
        peers.push_back(message.peer);
      }
    }
  }
  connect_peers(peers);
  auto operation = std::make_shared<Operation>();
  if (!peers.empty()) {
    int64_t bytes = 0;
    for (const auto* messages : {&sent, &received}) {
      for (const Message& message : *messages) {
        bytes = std::max(bytes, message.bytes);
      }
    }
    operation->held = held_by(bytes, {false, false, network_.setting.channels});
  }
  operation->name = std::move(name);
  operation->listeners = std::move(listeners);
  operation->lanes = [this, sent = std::move(sent), received = std::move(received)] {
    std::map<int, std::pair<std::vector<Step>, std::vector<Step>>> steps;  // by peer: sent, received
    for (const Message& message : sent) {
      auto& all = steps[message.peer].first;
      const auto more = message_steps(message.bytes, true);
      all.insert(all.end(), more.begin(), more.end());
    }
    for (const Message& message : received) {
      auto& all = steps[message.peer].second;
      const auto more = message_steps(message.bytes, false);
      all.insert(all.end(), more.begin(), more.end());
    }
    std::vector<Lane> lanes;
    for (auto& [peer, both] : steps) {
      if (peer == rank_) {
        continue;
      }
      Connection* in = &incoming_[{peer, MESSAGE_CHANNEL}];
      Connection* out = &outgoing_[{peer, MESSAGE_CHANNEL}];
      lanes.emplace_back(std::vector{in}, std::vector{out}, std::move(both.first), MESSAGE_SLICES, network_.wire);
      lanes.emplace_back(std::vector{in}, std::vector{out}, std::move(both.second), MESSAGE_SLICES, network_.wire);
    }
    return lanes;
  };
  return enqueue(std::move(operation));
}

std::shared_ptr<Operation> Communicator::enqueue(std::shared_ptr<Operation> operation) {
  operation->carried = std::exchange(next_carried_, {});
  TimeLines& lines = TimeLines::all();
  lines.block(device_, stream_, lines.record(device_, current_stream(device_)));
  operation->start = lines.record(device_, stream_);
  if (lines.is_captured(device_, stream_)) {
    return capture(std::move(operation));
  }
  lines.block(device_, stream_, operation->end);
  push(operation);
  return operation;
}

// Make an operation a part of the graph; each replay puts an equal one on the stream.
std::shared_ptr<Operation> Communicator::capture(std::shared_ptr<Operation> operation) {
  operation->carried.clear();
  auto launch = [weak = weak_from_this(), operation](const MarkerPtr& start, const MarkerPtr& end) {
    const auto self = weak.lock();
    TORCH_CHECK(self != nullptr, "a CUDA graph has operations of a process group that was destroyed");
    auto again = std::make_shared<Operation>(*operation);
    again->start = start;
    again->end = end;
    again->cause = std::make_shared<Cause>();
    again->cause->label = operation->cause->label.load();
    again->listeners.ended = operation->listeners.replayed();
    self->push(again);
  };
  TimeLines::all().capture_operation(device_, stream_, operation->start, operation->end, std::move(launch));
  return operation;
}

void Communicator::push(std::shared_ptr<Operation> operation) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(operation));
  changed_.notify_all();
}

void Communicator::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.empty() && !is_busy_; });
}

void Communicator::work() {
  while (true) {
    std::shared_ptr<Operation> operation;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !queue_.empty() || is_closing_; });
      if (queue_.empty()) {
        return;
      }
      operation = queue_.front();
      queue_.pop_front();
      is_busy_ = true;
    }
    carry_out(operation);
    const std::lock_guard lock(mutex_);
    is_busy_ = false;
    changed_.notify_all();
  }
}

void Communicator::carry_out(const std::shared_ptr<Operation>& operation) {
  const int64_t begin_ns = TimeLines::all().wait_until_reached(operation->start);
  TimeLines::all().begin(device_, operation->held);
  int64_t end_ns = std::max(begin_ns, now_ns());
  for (const auto& carried : operation->carried) {
    carried->before();
  }
  if (operation->lanes || operation->call) {
    try {
      if (operation->call) {
        operation->call(std::chrono::milliseconds(timeout_ns_ / NS_PER_MS));
      } else {
        auto lanes = operation->lanes();
        HostChain chain = operation->chain ? operation->chain() : HostChain();
        transfer(lanes, chain, now_ns() + timeout_ns_);
      }
    } catch (const std::exception& error) {
      const double seconds = static_cast<double>(now_ns() - begin_ns) / NS_PER_S;
      fprintf(stderr, "[rank %d of %s] NCCL error in %s after %.3f s: %s\n", rank_, name_.c_str(),
              operation->name.c_str(), seconds, error.what());
      _exit(1);  // as torch's watchdog does
    }
    end_ns = now_ns();
  }
  for (const auto& carried : operation->carried) {
    carried->after();
  }
  TimeLines::all().complete(operation->end, device_, stream_, {begin_ns, end_ns, operation->cause},
                            operation->held);
  operation->listeners.ended(begin_ns, end_ns);
}

}  // namespace testbed
