// A communicator of NCCL: the ranks of a group, their connections, and a stream on which the
// operations of the group run one after another.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "carried.h"
#include "host_chains.h"
#include "rings.h"
#include "sockets.h"
#include "timeline.h"
#include "trees.h"
#include "tuning.h"

namespace testbed {

// Where a rank is, and how it sends.
struct Network {
  std::string address;             // of this host
  Protocol protocol;
  int sockets = 1;                 // of each channel
  Wire wire;
  Setting setting;                 // of the choice between algorithms, without the group's ranks
  std::vector<std::string> hosts;  // of each rank of the run
  int local_channels = 0;          // of rings inside a host; 0: not known
  int64_t timeout_ns = 0;
};

// Numbers of connections to a peer: rings have their channels, from 0.
constexpr int MESSAGE_CHANNEL = -1;
constexpr int UP_CHANNEL = 1000;    // of trees: from children to parents
constexpr int DOWN_CHANNEL = 2000;  // from parents to children
constexpr int CHAIN_CHANNEL = 3000;  // to the last rank of a host; above, from it to the first one
constexpr int HOST_CHANNEL = 4000;   // from the last rank of a host to that of the next one

using Ended = std::function<void(int64_t, int64_t)>;  // called with begin and end in Unix ns

// Who wants to know of the end of an operation.
struct Listeners {
  Ended ended;
  std::function<Ended()> replayed;  // called when a graph begins the operation again
};

// One operation on the communicator's stream.
struct Operation {
  std::string name;
  CausePtr cause = std::make_shared<Cause>();
  MarkerPtr start;                                   // when the stream reaches the operation
  MarkerPtr end = std::make_shared<Marker>();
  Occupancy held;                                    // by its kernel
  std::function<std::vector<Lane>()> lanes;
  std::function<HostChain()> chain;  // of the ranks whose steps this rank works out; null: of none
  std::function<void(std::chrono::milliseconds)> call;  // of another library, in place of lanes
  Listeners listeners;
  std::vector<std::shared_ptr<Carried>> carried;
};

struct Message {
  int peer;
  int64_t bytes;
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  Communicator(c10::intrusive_ptr<c10d::Store> store, std::string name, int rank, int ranks, int device,
               Network network, const std::vector<uint64_t>& global_ranks);
  ~Communicator();

  int64_t stream() const { return stream_; }
  void set_timeout(int64_t ns) { timeout_ns_ = ns; }

  // Put an operation on the stream; all other ranks do the same.
  std::shared_ptr<Operation> run(Algorithm algorithm, int64_t bytes, int root, std::string name,
                                 Listeners listeners);
  std::shared_ptr<Operation> run_call(std::function<void(std::chrono::milliseconds)> call, std::string name,
                                      Listeners listeners);
  std::shared_ptr<Operation> exchange(std::vector<Message> sent, std::vector<Message> received, std::string name,
                                      Listeners listeners);
  using CarriedValues = std::vector<std::shared_ptr<Carried>>;
  void carry(CarriedValues carried) { next_carried_ = std::move(carried); }  // with the next operation
  void drain();  // wait until all operations have ended

 private:
  using Key = std::pair<int, int>;  // peer and channel: see the numbers in communicator.cpp

  void open_listener();
  std::function<std::vector<Lane>()> ring_lanes(Algorithm algorithm, int64_t bytes, int root, Protocol protocol);
  Lane chain_lane(std::vector<Step> steps, size_t slices_in_buffer, int channel, const Wire& wire);
  std::function<HostChain()> neighbours(Algorithm algorithm, int64_t bytes, Protocol protocol);
  Wire ring_wire(const Protocol& protocol) const;
  Occupancy held_by(int64_t bytes, const Choice& choice) const;
  std::function<std::vector<Lane>()> tree_lanes(int64_t bytes, Protocol protocol);
  Lane tree_lane(const TreePlace& place, int channel, int64_t bytes, const Protocol& protocol, bool is_up);
  bool is_in_second_tree(int channel) const;
  void connect_ring(bool has_chains);
  Key from_host_before(int channel) const;
  Key to_host_behind(int channel) const;
  void connect_trees();
  void connect_all(const std::vector<Key>& outgoing, const std::vector<Key>& incoming);
  void connect_peers(const std::vector<int>& peers);
  void connect(Key key);
  void accept_one();
  std::string place_of(int peer);
  std::shared_ptr<Operation> enqueue(std::shared_ptr<Operation> operation);
  std::shared_ptr<Operation> capture(std::shared_ptr<Operation> operation);
  void push(std::shared_ptr<Operation> operation);
  void work();
  void carry_out(const std::shared_ptr<Operation>& operation);

  c10::intrusive_ptr<c10d::Store> store_;
  std::string name_;
  int rank_;
  int ranks_;
  int device_;
  int64_t stream_;
  Network network_;
  std::vector<int> host_of_rank_;  // empty: not known
  ChainPlace chain_;
  std::atomic<int64_t> timeout_ns_;
  std::unique_ptr<Listener> listener_;
  std::map<Key, Connection> outgoing_;
  std::map<Key, Connection> incoming_;
  std::map<int, std::string> places_;
  CarriedValues next_carried_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Operation>> queue_;
  bool is_busy_ = false;
  bool is_closing_ = false;
  std::thread worker_;
};

}  // namespace testbed
