// The data of one operation as it crosses the network: real bytes, all from one small buffer.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "sockets.h"

namespace testbed {

// A step of NCCL's kernel on one channel: it takes a slice that has arrived, and passes one on.
struct Step {
  int64_t received;  // bytes; 0: the step takes none
  int64_t sent;      // bytes; 0: the step passes none on
};

// How bytes become bytes on the wire, and times inside a host.
struct Wire {
  double local_bytes_per_ns = 1;  // between devices of one host
  int64_t per_byte = 1;           // bytes that are sent for each byte: low-latency protocols add flags
  int64_t scale = 1;              // only one of so many bytes crosses the network

  int64_t bytes(int64_t data) const { return (data * per_byte + scale - 1) / scale; }
};

// The steps of one channel. As in NCCL a buffer of a few slices is between kernel and network, in
// each direction. A step takes a slice from each source, and passes one on to each target.
//
// Inside a host a slice is the time of its arrival, which follows from the time of the step that
// sends it. A lane without a connection to another host works out all of its steps before their
// times, and then waits until the last one is over.
class Lane {
 public:
  // Args:
  //   sources, targets: connections; null: of a rank whose steps this process works out.
  //   steps: what the lane does.
  //   slices_in_buffer: slices between kernel and network.
  //   wire: how bytes become bytes on the wire.
  Lane(std::vector<Connection*> sources, std::vector<Connection*> targets, std::vector<Step> steps,
       size_t slices_in_buffer, Wire wire);

  bool is_over(int64_t now) const;
  // A part of a slice on one socket.
  struct Part {
    int socket;
    int64_t left;
    bool is_ready = true;  // the socket may have data, or room for data
  };

  void proceed(int64_t now);  // as far as possible without waiting
  void proceed_from(int64_t start_ns, int64_t now);  // of a lane that began at `start_ns`
  void hold_times(size_t target);              // keep what is passed on until `take_times`
  void send_late(size_t target, size_t last);  // send a target all times at once, but the last ones
  void tell_arrivals(size_t target, size_t last);  // the same, with the times at which slices arrive
  std::vector<int64_t> take_times();  // of the slices that were passed on to the first target
  void learn(const std::vector<int64_t>& times_ns);  // of slices from a source without connection
  bool has_run() const { return step_ == steps_.size(); }
  bool has_sent() const;
  int64_t time_ns() const { return time_ns_; }
  std::vector<Part*> parts_to_read();
  std::vector<Part*> parts_to_write();
  int64_t next_event_ns() const;  // inside the host; 0: none is known

 private:
  struct Slice {
    std::vector<Part> parts;
    int64_t bytes;
  };
  struct Inlet {
    Connection* source;
    size_t next_expected = 0;         // step whose slice is the next to be expected
    std::deque<Slice> coming;         // slices that the network is to bring
    size_t arrived = 0;               // slices that the kernel has not yet taken
    size_t to_learn = 0;              // slices inside the host whose times are not known
    std::deque<int64_t> on_the_way;   // times of arrival of slices inside the host
    Part times{};                     // the socket from which they come
  };
  struct Outlet {
    Connection* target;
    std::deque<Slice> leaving;        // slices of the kernel for the network
    int64_t link_free_ns = 0;         // of the link inside the host
    std::vector<int64_t> unsent = {};  // times of arrival of slices inside the host
    size_t sent_bytes = 0;             // of the first of them
    bool is_held = false;              // this process takes them
    bool tells_arrivals = false;       // they are those of the slices that arrive
    size_t held_steps = 0;             // after so many steps they are sent, all at once
    Part times{};                     // the socket to which they go
  };

  void run_ahead(int64_t start_ns);  // `proceed` with the times of a lane inside the host
  bool is_held_back(const Outlet& outlet) const;
  bool can_run(const Step& step) const;
  bool run_steps(int64_t now);
  bool write(Outlet& outlet, int64_t now);
  bool read(Inlet& inlet, int64_t now);
  bool read_from_one_socket(Inlet& inlet, int64_t now);
  void note_arrival(Inlet& inlet, int64_t now);
  void expect_slices(Inlet& inlet);
  Slice divided(Connection& connection, int64_t bytes) const;
  void pass_on(Outlet& outlet, int64_t bytes, int64_t time_ns) const;
  void send_times(Outlet& outlet) const;
  void learn_times(Inlet& inlet) const;

  std::vector<Inlet> inlets_;
  std::vector<Outlet> outlets_;
  std::vector<Step> steps_;
  size_t slices_in_buffer_;
  Wire wire_;
  size_t step_ = 0;
  size_t sending_steps_ = 0;  // steps until the last one that passes a slice on
  bool is_local_ = true;  // no connection leads to another host
  int64_t time_ns_ = 0;   // of the last step, if all connections are local
};

class HostChain;

// Run lanes until all are over.
//
// Args:
//   lanes: the lanes.
//   chain: ranks of this host whose steps this rank works out.
//   deadline_ns: when to give up.
//
// Throws:
//   std::runtime_error: a peer has closed a connection, or nothing came before `deadline_ns`.
void transfer(std::vector<Lane>& lanes, HostChain& chain, int64_t deadline_ns);

}  // namespace testbed
