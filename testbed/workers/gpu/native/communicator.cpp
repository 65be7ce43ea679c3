#include "communicator.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "device.h"

namespace testbed {

namespace {

constexpr int64_t NS_PER_S = 1'000'000'000;
constexpr int64_t FIRST_STREAM = 1000;        // above those of torch's pool
constexpr int MESSAGE_CHANNEL = -1;
constexpr int64_t MESSAGE_SLICE = 128 << 10;  // NCCL_P2P_NET_CHUNKSIZE
constexpr size_t MESSAGE_SLICES = 8;

std::atomic<int64_t> streams{FIRST_STREAM};

// The first bytes on a connection.
struct Greeting {
  int32_t rank;
  int32_t channel;
};

std::vector<Step> message_steps(int64_t bytes, bool is_sent) {
  std::vector<Step> steps;
  for (int64_t left = bytes; left > 0; left -= MESSAGE_SLICE) {
    const int64_t slice = std::min(left, MESSAGE_SLICE);
    steps.push_back({is_sent ? 0 : slice, is_sent ? slice : 0});
  }
  return steps;
}

std::string host_of(const std::string& place) { return place.substr(0, place.rfind(':')); }

}  // namespace

Communicator::Communicator(c10::intrusive_ptr<c10d::Store> store, std::string name, int rank, int ranks, int device,
                           Network network)
    : store_(std::move(store)),
      name_(std::move(name)),
      rank_(rank),
      ranks_(ranks),
      device_(device),
      stream_(streams++),
      network_(std::move(network)),
      timeout_ns_(network_.timeout_ns) {
  worker_ = std::thread([this] { work(); });
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

std::shared_ptr<Operation> Communicator::run_ring(Algorithm algorithm, int64_t bytes, int root, std::string name,
                                                  std::function<void(int64_t, int64_t)> on_end) {
  auto operation = std::make_shared<Operation>();
  operation->name = std::move(name);
  operation->on_end = std::move(on_end);
  if (ranks_ > 1 && bytes > 0) {
    connect_ring();
    // a chain begins at the root of a broadcast, and ends at the root of a reduction
    const int first = algorithm == Algorithm::reduce ? root + 1 : root;
    const int position = (rank_ - first + 2 * ranks_) % ranks_;
    operation->lanes = [this, algorithm, bytes, position] {
      const int right = (rank_ + 1) % ranks_;
      const int left = (rank_ + ranks_ - 1) % ranks_;
      const int channels = network_.protocol.channels;
      std::vector<Lane> lanes;
      for (int channel = 0; channel < channels; ++channel) {
        const int64_t share = bytes / channels + (channel < bytes % channels ? 1 : 0);
        lanes.emplace_back(&incoming_[{left, channel}], &outgoing_[{right, channel}],
                           ring_steps(algorithm, share, ranks_, position, network_.protocol),
                           slices_in_buffer(algorithm), network_.local_bytes_per_ns / channels);
      }
      return lanes;
    };
  }
  return enqueue(std::move(operation));
}

std::shared_ptr<Operation> Communicator::exchange(std::vector<Message> sent, std::vector<Message> received,
                                                  std::string name, std::function<void(int64_t, int64_t)> on_end) {
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
  operation->name = std::move(name);
  operation->on_end = std::move(on_end);
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
      lanes.emplace_back(in, out, std::move(both.first), MESSAGE_SLICES, network_.local_bytes_per_ns);
      lanes.emplace_back(in, out, std::move(both.second), MESSAGE_SLICES, network_.local_bytes_per_ns);
    }
    return lanes;
  };
  return enqueue(std::move(operation));
}

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
  if (outgoing_.count({right, 0}) > 0) {
    return;
  }
  open_listener();
  const int left = (rank_ + ranks_ - 1) % ranks_;
  const int channels = network_.protocol.channels;
  connect(right, 0, channels);
  while (incoming_.count({left, channels - 1}) == 0 ||
         incoming_[{left, channels - 1}].sockets.size() < static_cast<size_t>(network_.sockets)) {
    accept(1);
  }
  for (int channel = 0; channel < channels; ++channel) {
    incoming_[{left, channel}].is_local = host_of(place_of(left)) == network_.address;
  }
}

void Communicator::connect_peers(const std::vector<int>& peers) {
  for (const int peer : peers) {
    if (outgoing_.count({peer, MESSAGE_CHANNEL}) == 0) {
      open_listener();
      connect(peer, MESSAGE_CHANNEL, 1);
    }
  }
  for (const int peer : peers) {
    while (incoming_[{peer, MESSAGE_CHANNEL}].sockets.size() < static_cast<size_t>(network_.sockets)) {
      accept(1);
    }
    incoming_[{peer, MESSAGE_CHANNEL}].is_local = host_of(place_of(peer)) == network_.address;
  }
}

void Communicator::connect(int peer, int first_channel, int channels) {
  const std::string place = place_of(peer);
  for (int channel = first_channel; channel < first_channel + channels; ++channel) {
    Connection connection;
    connection.is_local = host_of(place) == network_.address;
    for (int number = 0; number < network_.sockets; ++number) {
      const int socket = connect_to(place);
      const Greeting greeting{rank_, channel};
      write_all(socket, &greeting, sizeof greeting);
      connection.sockets.push_back(socket);
    }
    outgoing_[{peer, channel}] = connection;
  }
}

void Communicator::accept(int connections) {
  for (int number = 0; number < connections; ++number) {
    const int socket = listener_->accept_one();
    Greeting greeting{};
    read_all(socket, &greeting, sizeof greeting);
    incoming_[{greeting.rank, greeting.channel}].sockets.push_back(socket);
  }
}

std::shared_ptr<Operation> Communicator::enqueue(std::shared_ptr<Operation> operation) {
  operation->carried = std::exchange(next_carried_, {});
  TimeLines& lines = TimeLines::all();
  lines.block(device_, stream_, lines.record(device_, current_stream(device_)));
  operation->start = lines.record(device_, stream_);
  lines.block(device_, stream_, operation->end);
  const std::lock_guard lock(mutex_);
  queue_.push_back(operation);
  changed_.notify_all();
  return operation;
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
  const int64_t begin_ns = TimeLines::all().resolved_time(operation->start);
  if (begin_ns > now_ns()) {
    sleep_until(begin_ns);
  }
  int64_t end_ns = std::max(begin_ns, now_ns());
  for (const auto& carried : operation->carried) {
    carried->before();
  }
  if (operation->lanes) {
    try {
      auto lanes = operation->lanes();
      transfer(lanes, now_ns() + timeout_ns_);
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
  TimeLines::all().complete(operation->end, device_, stream_, {begin_ns, end_ns, operation->cause});
  operation->on_end(begin_ns, end_ns);
}

}  // namespace testbed
