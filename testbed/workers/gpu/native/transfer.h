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

// The steps of one channel. As in NCCL a buffer of a few slices is between kernel and network, in
// each direction.
class Lane {
 public:
  Lane(Connection* source, Connection* target, std::vector<Step> steps, size_t slices_in_buffer,
       double local_bytes_per_ns);

  bool is_over() const { return step_ == steps_.size() && leaving_.empty(); }
  // A part of a slice on one socket.
  struct Part {
    int socket;
    int64_t left;
    bool is_ready = true;  // the socket may have data, or room for data
  };

  void proceed(int64_t now);  // as far as possible without waiting
  std::vector<Part*> parts_to_read();
  std::vector<Part*> parts_to_write();
  int64_t next_arrival_ns() const;  // of a slice inside the host; 0: none is under way

 private:
  struct Slice {
    std::vector<Part> parts;
    int64_t bytes;
  };

  bool run_steps(int64_t now);
  bool write(int64_t now);
  bool read(int64_t now);
  void expect_slices();
  Slice divided(Connection& connection, int64_t bytes) const;
  bool write_local(Slice& slice, int64_t now);
  bool read_local(Slice& slice);

  Connection* source_;
  Connection* target_;
  std::vector<Step> steps_;
  size_t slices_in_buffer_;
  double local_bytes_per_ns_;
  size_t step_ = 0;
  size_t next_expected_ = 0;         // step whose slice is the next to be expected
  std::deque<Slice> leaving_;        // slices of the kernel for the network
  std::deque<Slice> coming_;         // slices that the network is to bring
  size_t arrived_ = 0;               // slices that the kernel has not yet taken
  std::deque<int64_t> on_the_way_;   // times of arrival of slices inside the host
  int64_t link_free_ns_ = 0;         // of the link inside the host
};

// Run lanes until all are over.
//
// Throws:
//   std::runtime_error: a peer has closed a connection, or nothing came before `deadline_ns`.
void transfer(std::vector<Lane>& lanes, int64_t deadline_ns);

}  // namespace testbed
