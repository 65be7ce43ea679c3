// A communicator of NCCL: the ranks of a group, their connections, and a stream on which the
// operations of the group run one after another.
#pragma once

#include <atomic>
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
#include "rings.h"
#include "sockets.h"
#include "timeline.h"

namespace testbed {

// Where a rank is, and how it sends.
struct Network {
  std::string address;             // of this host
  Protocol protocol;
  int sockets = 1;                 // of each channel
  double local_bytes_per_ns = 1;   // between devices of one host
  int64_t timeout_ns = 0;
};

// One operation on the communicator's stream.
struct Operation {
  std::string name;
  CausePtr cause = std::make_shared<Cause>();
  MarkerPtr start;                                   // when the stream reaches the operation
  MarkerPtr end = std::make_shared<Marker>();
  std::function<std::vector<Lane>()> lanes;
  std::function<void(int64_t, int64_t)> on_end;      // called with begin and end in Unix ns
  std::vector<std::shared_ptr<Carried>> carried;
};

struct Message {
  int peer;
  int64_t bytes;
};

class Communicator {
 public:
  Communicator(c10::intrusive_ptr<c10d::Store> store, std::string name, int rank, int ranks, int device, Network network);
  ~Communicator();

  int64_t stream() const { return stream_; }
  void set_timeout(int64_t ns) { timeout_ns_ = ns; }

  // Put an operation on the stream; all other ranks do the same.
  std::shared_ptr<Operation> run_ring(Algorithm algorithm, int64_t bytes, int root, std::string name,
                                      std::function<void(int64_t, int64_t)> on_end);
  std::shared_ptr<Operation> exchange(std::vector<Message> sent, std::vector<Message> received, std::string name,
                                      std::function<void(int64_t, int64_t)> on_end);
  using CarriedValues = std::vector<std::shared_ptr<Carried>>;
  void carry(CarriedValues carried) { next_carried_ = std::move(carried); }  // with the next operation
  void drain();  // wait until all operations have ended

 private:
  using Key = std::pair<int, int>;  // peer and channel; rings have channels from 0, messages below 0

  void open_listener();
  void connect_ring();
  void connect_peers(const std::vector<int>& peers);
  void connect(int peer, int first_channel, int channels);
  void accept(int channels);
  std::string place_of(int peer);
  std::shared_ptr<Operation> enqueue(std::shared_ptr<Operation> operation);
  void work();
  void carry_out(const std::shared_ptr<Operation>& operation);

  c10::intrusive_ptr<c10d::Store> store_;
  std::string name_;
  int rank_;
  int ranks_;
  int device_;
  int64_t stream_;
  Network network_;
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
