#include "transfer.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "timeline.h"

namespace testbed {

namespace {

constexpr int64_t LEAST_PART = 64 << 10;  // NCCL divides no smaller messages among sockets
constexpr size_t BUFFER = 1 << 20;
constexpr int64_t NS_PER_S = 1'000'000'000;

const char* payload() {
  static const auto* bytes = new std::vector<char>(BUFFER);
  return bytes->data();
}

[[noreturn]] void fail(const char* call) {
  throw std::runtime_error(std::string(call) + ": " + strerror(errno));
}

// Send at most `bytes` of the payload without waiting; return how many were sent.
int64_t send_some(int socket, int64_t bytes) {
  const ssize_t sent = send(socket, payload(), std::min<size_t>(bytes, BUFFER), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) {
    if (errno == EAGAIN || errno == EINTR) {
      return 0;
    }
    fail("send");
  }
  return sent;
}

// Take at most `bytes` from a socket without waiting; the kernel drops the bytes (tcp(7)).
int64_t take_some(int socket, int64_t bytes) {
  const ssize_t received = recv(socket, nullptr, static_cast<size_t>(bytes), MSG_TRUNC | MSG_DONTWAIT);
  if (received == 0) {
    throw std::runtime_error("a peer has closed the connection");
  }
  if (received < 0) {
    if (errno == EAGAIN || errno == EINTR) {
      return 0;
    }
    fail("recv");
  }
  return received;
}

}  // namespace

Lane::Lane(Connection* source, Connection* target, std::vector<Step> steps, size_t slices_in_buffer,
           double local_bytes_per_ns)
    : source_(source),
      target_(target),
      steps_(std::move(steps)),
      slices_in_buffer_(slices_in_buffer),
      local_bytes_per_ns_(local_bytes_per_ns) {}

void Lane::proceed(int64_t now) {
  bool has_changed = true;
  while (has_changed) {
    expect_slices();
    const bool has_read = read(now);
    const bool has_run = run_steps(now);
    const bool has_written = write(now);
    has_changed = has_read || has_run || has_written;
  }
}

bool Lane::run_steps(int64_t) {
  bool has_run = false;
  while (step_ < steps_.size()) {
    const Step& step = steps_[step_];
    const bool waits_for_slice = step.received > 0 && arrived_ == 0;
    const bool waits_for_room = step.sent > 0 && leaving_.size() >= slices_in_buffer_;
    if (waits_for_slice || waits_for_room) {
      break;
    }
    if (step.received > 0) {
      arrived_ -= 1;
    }
    if (step.sent > 0) {
      leaving_.push_back(divided(*target_, step.sent));
    }
    step_ += 1;
    has_run = true;
  }
  return has_run;
}

void Lane::expect_slices() {
  while (next_expected_ < steps_.size() && coming_.size() + arrived_ < slices_in_buffer_) {
    const Step& step = steps_[next_expected_];
    if (step.received > 0) {
      coming_.push_back(divided(*source_, step.received));
    }
    next_expected_ += 1;
  }
}

Lane::Slice Lane::divided(Connection& connection, int64_t bytes) const {
  Slice slice{{}, bytes};
  if (connection.is_local) {
    slice.parts.push_back({connection.sockets[0], 1});
    return slice;
  }
  const auto sockets = static_cast<int64_t>(connection.sockets.size());
  const int64_t part = std::max(LEAST_PART, (bytes + sockets - 1) / sockets);
  for (int64_t begin = 0; begin < bytes; begin += part) {
    const int socket = connection.sockets[connection.next_socket];
    connection.next_socket = (connection.next_socket + 1) % connection.sockets.size();
    slice.parts.push_back({socket, std::min(part, bytes - begin)});
  }
  return slice;
}

bool Lane::write(int64_t now) {
  bool has_written = false;
  while (!leaving_.empty()) {
    Slice& slice = leaving_.front();
    bool is_gone = true;
    if (target_->is_local) {
      is_gone = write_local(slice, now);
      has_written |= is_gone;
    } else {
      for (Part& part : slice.parts) {
        if (part.left == 0 || !part.is_ready) {
          is_gone &= part.left == 0;
          continue;
        }
        const int64_t sent = send_some(part.socket, part.left);
        part.is_ready = sent > 0;
        part.left -= sent;
        has_written |= sent > 0;
        is_gone &= part.left == 0;
      }
    }
    if (!is_gone) {
      break;
    }
    leaving_.pop_front();
  }
  return has_written;
}

bool Lane::write_local(Slice& slice, int64_t now) {
  const auto duration_ns = static_cast<int64_t>(std::llround(static_cast<double>(slice.bytes) / local_bytes_per_ns_));
  link_free_ns_ = std::max(link_free_ns_, now) + duration_ns;
  write_all(slice.parts[0].socket, &link_free_ns_, sizeof link_free_ns_);
  return true;
}

bool Lane::read(int64_t now) {
  bool has_read = false;
  while (!on_the_way_.empty() && on_the_way_.front() <= now) {
    on_the_way_.pop_front();
    arrived_ += 1;
    has_read = true;
  }
  while (!coming_.empty()) {
    Slice& slice = coming_.front();
    bool is_here = true;
    if (source_->is_local) {
      is_here = read_local(slice);
      if (is_here && on_the_way_.back() <= now) {
        on_the_way_.pop_back();
        arrived_ += 1;
      }
    } else {
      for (Part& part : slice.parts) {
        if (part.left == 0 || !part.is_ready) {
          is_here &= part.left == 0;
          continue;
        }
        const int64_t taken = take_some(part.socket, part.left);
        part.left -= taken;
        part.is_ready = false;  // the socket is empty, or the part is complete
        has_read |= taken > 0;
        is_here &= part.left == 0;
      }
      arrived_ += static_cast<size_t>(is_here);
    }
    if (!is_here) {
      break;
    }
    has_read = true;
    coming_.pop_front();
  }
  return has_read;
}

bool Lane::read_local(Slice& slice) {
  int64_t arrival_ns = 0;
  const ssize_t size = recv(slice.parts[0].socket, &arrival_ns, sizeof arrival_ns, MSG_PEEK | MSG_DONTWAIT);
  if (size == 0) {
    throw std::runtime_error("a peer has closed the connection");
  }
  if (size < static_cast<ssize_t>(sizeof arrival_ns)) {
    return false;
  }
  read_all(slice.parts[0].socket, &arrival_ns, sizeof arrival_ns);
  on_the_way_.push_back(arrival_ns);
  return true;
}

namespace {

template <typename Slices>
std::vector<Lane::Part*> parts_left(Slices& slices) {
  std::vector<Lane::Part*> parts;
  if (!slices.empty()) {
    for (Lane::Part& part : slices.front().parts) {
      if (part.left > 0) {
        parts.push_back(&part);
      }
    }
  }
  return parts;
}

}  // namespace

std::vector<Lane::Part*> Lane::parts_to_read() { return parts_left(coming_); }

std::vector<Lane::Part*> Lane::parts_to_write() { return parts_left(leaving_); }

int64_t Lane::next_arrival_ns() const { return on_the_way_.empty() ? 0 : on_the_way_.front(); }

namespace {

// Wait until a lane can proceed; return whether one can before the deadline.
bool wait_for_any(std::vector<Lane>& lanes, int64_t now, int64_t deadline_ns) {
  std::vector<pollfd> sockets;
  std::vector<Lane::Part*> parts;
  int64_t until_ns = deadline_ns;
  for (Lane& lane : lanes) {
    if (lane.is_over()) {
      continue;
    }
    for (Lane::Part* part : lane.parts_to_read()) {
      sockets.push_back({part->socket, POLLIN, 0});
      parts.push_back(part);
    }
    for (Lane::Part* part : lane.parts_to_write()) {
      sockets.push_back({part->socket, POLLOUT, 0});
      parts.push_back(part);
    }
    if (lane.next_arrival_ns() > 0) {
      until_ns = std::min(until_ns, lane.next_arrival_ns());
    }
  }
  const int64_t left_ns = std::max<int64_t>(0, until_ns - now);
  const timespec left{left_ns / NS_PER_S, left_ns % NS_PER_S};
  const int ready = ppoll(sockets.data(), sockets.size(), &left, nullptr);
  for (size_t place = 0; place < sockets.size(); ++place) {
    parts[place]->is_ready = sockets[place].revents != 0;
  }
  return ready != 0 || until_ns < deadline_ns;
}

}  // namespace

void transfer(std::vector<Lane>& lanes, int64_t deadline_ns) {
  while (true) {
    const int64_t now = now_ns();
    bool is_over = true;
    for (Lane& lane : lanes) {
      lane.proceed(now);
      is_over &= lane.is_over();
    }
    if (is_over) {
      return;
    }
    if (!wait_for_any(lanes, now, deadline_ns)) {
      throw std::runtime_error("timed out");
    }
  }
}

}  // namespace testbed
