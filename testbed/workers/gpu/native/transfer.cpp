#include "transfer.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "clock.h"
#include "host_chains.h"

namespace testbed {

namespace {

constexpr int64_t LEAST_PART = 64 << 10;  // NCCL divides no smaller messages among sockets
constexpr size_t BUFFER = 1 << 20;
constexpr size_t MOST_TIMES = 4096;  // that are read at once
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

bool is_local(const Connection* connection) { return connection == nullptr || connection->is_local; }

}  // namespace

Lane::Lane(std::vector<Connection*> sources, std::vector<Connection*> targets, std::vector<Step> steps,
           size_t slices_in_buffer, Wire wire)
    : steps_(std::move(steps)), slices_in_buffer_(slices_in_buffer), wire_(wire) {
  const auto slices = static_cast<size_t>(
      std::count_if(steps_.begin(), steps_.end(), [](const Step& step) { return step.received > 0; }));
  for (size_t place = 0; place < steps_.size(); ++place) {
    sending_steps_ = steps_[place].sent > 0 ? place + 1 : sending_steps_;
  }
  for (Connection* source : sources) {
    Inlet inlet{source};
    if (source != nullptr) {
      inlet.times.socket = source->sockets[0];
      inlet.to_learn = source->is_local ? slices : 0;
      is_local_ &= source->is_local;
    }
    inlets_.push_back(std::move(inlet));
  }
  for (Connection* target : targets) {
    Outlet outlet{target};
    if (target != nullptr) {
      outlet.times.socket = target->sockets[0];
      is_local_ &= target->is_local;
    }
    outlets_.push_back(std::move(outlet));
  }
}

void Lane::hold_times(size_t target) { outlets_[target].is_held = true; }

void Lane::send_late(size_t target, size_t last) {
  outlets_[target].held_steps = sending_steps_ - std::min(sending_steps_, last);
}

void Lane::tell_arrivals(size_t target, size_t last) {
  outlets_[target].tells_arrivals = true;
  send_late(target, last);
}

std::vector<int64_t> Lane::take_times() {
  std::vector<int64_t> times;
  std::swap(times, outlets_[0].unsent);
  return times;
}

void Lane::learn(const std::vector<int64_t>& times_ns) {
  auto& known = inlets_[0].on_the_way;
  known.insert(known.end(), times_ns.begin(), times_ns.end());
}

bool Lane::has_sent() const {
  const auto has_left = [](const Outlet& outlet) {
    return outlet.leaving.empty() && (outlet.unsent.empty() || outlet.is_held);
  };
  return std::all_of(outlets_.begin(), outlets_.end(), has_left);
}

bool Lane::is_over(int64_t now) const { return has_run() && time_ns_ <= now && has_sent(); }

void Lane::proceed(int64_t now) {
  if (is_local_) {
    run_ahead(now);
    return;
  }
  bool has_changed = true;
  while (has_changed) {
    has_changed = false;
    for (Inlet& inlet : inlets_) {
      expect_slices(inlet);
      has_changed |= read(inlet, now);
    }
    has_changed |= run_steps(now);
    for (Outlet& outlet : outlets_) {
      has_changed |= write(outlet, now);
    }
  }
  for (Outlet& outlet : outlets_) {
    send_times(outlet);
  }
}

void Lane::proceed_from(int64_t start_ns, int64_t now) {
  if (is_local_) {
    run_ahead(start_ns);
    return;
  }
  if (step_ == 0) {
    run_steps(start_ns);  // those that need no slice
  }
  proceed(now);
}

// Work out the times of steps that depend on nothing outside of the host.
void Lane::run_ahead(int64_t start_ns) {
  if (time_ns_ == 0) {
    time_ns_ = start_ns;
  }
  for (Inlet& inlet : inlets_) {
    learn_times(inlet);
  }
  const auto has_slice = [](const Inlet& inlet) { return !inlet.on_the_way.empty(); };
  while (step_ < steps_.size()) {
    const Step& step = steps_[step_];
    if (step.received > 0 && !std::all_of(inlets_.begin(), inlets_.end(), has_slice)) {
      break;
    }
    if (step.received > 0) {
      for (Inlet& inlet : inlets_) {
        time_ns_ = std::max(time_ns_, inlet.on_the_way.front());
        inlet.on_the_way.pop_front();
      }
    }
    if (step.sent > 0) {
      for (Outlet& outlet : outlets_) {
        pass_on(outlet, step.sent, time_ns_);
      }
    }
    step_ += 1;
  }
  for (Outlet& outlet : outlets_) {
    send_times(outlet);
  }
}

bool Lane::can_run(const Step& step) const {
  for (const Inlet& inlet : inlets_) {
    if (step.received > 0 && inlet.arrived == 0) {
      return false;
    }
  }
  for (const Outlet& outlet : outlets_) {
    if (step.sent > 0 && outlet.leaving.size() >= slices_in_buffer_) {
      return false;
    }
  }
  return true;
}

bool Lane::run_steps(int64_t now) {
  bool has_run = false;
  while (step_ < steps_.size() && can_run(steps_[step_])) {
    const Step& step = steps_[step_];
    for (Inlet& inlet : inlets_) {
      inlet.arrived -= step.received > 0 ? 1 : 0;
    }
    for (Outlet& outlet : outlets_) {
      if (step.sent == 0 || outlet.tells_arrivals) {
        continue;
      }
      if (is_local(outlet.target)) {
        pass_on(outlet, step.sent, now);
      } else {
        outlet.leaving.push_back(divided(*outlet.target, step.sent));
      }
    }
    step_ += 1;
    has_run = true;
  }
  return has_run;
}

void Lane::expect_slices(Inlet& inlet) {
  if (is_local(inlet.source)) {
    return;
  }
  while (inlet.next_expected < steps_.size() && inlet.coming.size() + inlet.arrived < slices_in_buffer_) {
    const Step& step = steps_[inlet.next_expected];
    if (step.received > 0) {
      inlet.coming.push_back(divided(*inlet.source, step.received));
    }
    inlet.next_expected += 1;
  }
}

Lane::Slice Lane::divided(Connection& connection, int64_t bytes) const {
  Slice slice{{}, bytes};
  const auto sockets = static_cast<int64_t>(connection.sockets.size());
  const int64_t part = std::max(LEAST_PART, (bytes + sockets - 1) / sockets);
  for (int64_t begin = 0; begin < bytes; begin += part) {
    const int socket = connection.sockets[connection.next_socket];
    connection.next_socket = (connection.next_socket + 1) % connection.sockets.size();
    slice.parts.push_back({socket, wire_.bytes(std::min(part, bytes - begin))});
  }
  return slice;
}

bool Lane::write(Outlet& outlet, int64_t now) {
  bool has_written = false;
  while (!outlet.leaving.empty()) {
    Slice& slice = outlet.leaving.front();
    bool is_gone = true;
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
    if (!is_gone) {
      break;
    }
    outlet.leaving.pop_front();
  }
  return has_written;
}

// Pass a slice on to a rank of the same host, in a step at `time_ns`.
void Lane::pass_on(Outlet& outlet, int64_t bytes, int64_t time_ns) const {
  const double on_link = static_cast<double>(bytes * wire_.per_byte);
  const auto duration_ns = static_cast<int64_t>(std::llround(on_link / wire_.local_bytes_per_ns));
  outlet.link_free_ns = std::max(outlet.link_free_ns, time_ns) + duration_ns;
  outlet.unsent.push_back(outlet.link_free_ns);
}

bool Lane::is_held_back(const Outlet& outlet) const {
  return outlet.is_held || step_ < outlet.held_steps;
}

// Send the known times of arrival, as far as possible without waiting.
void Lane::send_times(Outlet& outlet) const {
  if (is_held_back(outlet) || outlet.unsent.empty() || !outlet.times.is_ready) {
    return;
  }
  const auto* bytes = reinterpret_cast<const char*>(outlet.unsent.data()) + outlet.sent_bytes;
  const size_t left = outlet.unsent.size() * sizeof(int64_t) - outlet.sent_bytes;
  const ssize_t sent = send(outlet.times.socket, bytes, left, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno != EAGAIN && errno != EINTR) {
    fail("send");
  }
  outlet.sent_bytes += static_cast<size_t>(std::max<ssize_t>(sent, 0));
  const auto whole = static_cast<ptrdiff_t>(outlet.sent_bytes / sizeof(int64_t));
  outlet.unsent.erase(outlet.unsent.begin(), outlet.unsent.begin() + whole);
  outlet.sent_bytes %= sizeof(int64_t);
  outlet.times.is_ready = outlet.unsent.empty();
}

bool Lane::read(Inlet& inlet, int64_t now) {
  bool has_read = false;
  if (is_local(inlet.source)) {
    learn_times(inlet);
    while (!inlet.on_the_way.empty() && inlet.on_the_way.front() <= now) {
      inlet.on_the_way.pop_front();
      inlet.arrived += 1;
      has_read = true;
    }
    return has_read;
  }
  if (inlet.source->sockets.size() == 1) {
    return read_from_one_socket(inlet, now);
  }
  while (!inlet.coming.empty()) {
    Slice& slice = inlet.coming.front();
    bool is_here = true;
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
    if (!is_here) {
      break;
    }
    note_arrival(inlet, now);
    has_read = true;
    inlet.coming.pop_front();
  }
  return has_read;
}

// Take all slices that have arrived at once, of which each is one part.
bool Lane::read_from_one_socket(Inlet& inlet, int64_t now) {
  auto& coming = inlet.coming;
  if (coming.empty() || !coming.front().parts[0].is_ready) {
    return false;
  }
  int64_t wanted = 0;
  for (const Slice& slice : coming) {
    wanted += slice.parts[0].left;
  }
  const int64_t taken = take_some(coming.front().parts[0].socket, wanted);
  int64_t rest = taken;
  while (!coming.empty() && coming.front().parts[0].left <= rest) {
    rest -= coming.front().parts[0].left;
    coming.pop_front();
    note_arrival(inlet, now);
  }
  if (!coming.empty()) {
    coming.front().parts[0].left -= rest;
    coming.front().parts[0].is_ready = false;  // the socket is empty
  }
  return taken > 0;
}

void Lane::note_arrival(Inlet& inlet, int64_t now) {
  inlet.arrived += 1;
  for (Outlet& outlet : outlets_) {
    if (outlet.tells_arrivals) {
      outlet.unsent.push_back(now);
    }
  }
}

// Read the times of slices of this operation; those of the next one stay in the socket. Times come
// in their order, so more of them are of no use while one is known.
void Lane::learn_times(Inlet& inlet) const {
  if (inlet.to_learn == 0 || !inlet.on_the_way.empty() || !inlet.times.is_ready) {
    return;
  }
  auto& rest = inlet.source->rest;
  const size_t known = rest.size();
  const size_t wanted = std::min(inlet.to_learn, MOST_TIMES) * sizeof(int64_t);
  rest.resize(wanted);
  const ssize_t size = recv(inlet.times.socket, rest.data() + known, wanted - known, MSG_DONTWAIT);
  if (size == 0) {
    throw std::runtime_error("a peer has closed the connection");
  }
  if (size < 0 && errno != EAGAIN && errno != EINTR) {
    fail("recv");
  }
  rest.resize(known + static_cast<size_t>(std::max<ssize_t>(size, 0)));
  inlet.times.is_ready = false;
  const size_t complete = rest.size() / sizeof(int64_t);
  for (size_t place = 0; place < complete; ++place) {
    int64_t time_ns = 0;
    memcpy(&time_ns, rest.data() + place * sizeof time_ns, sizeof time_ns);
    inlet.on_the_way.push_back(time_ns);
    inlet.to_learn -= 1;
  }
  rest.erase(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(complete * sizeof(int64_t)));
}

namespace {

template <typename Slices>
void add_parts_left(Slices& slices, std::vector<Lane::Part*>& parts) {
  if (slices.empty()) {
    return;
  }
  for (Lane::Part& part : slices.front().parts) {
    if (part.left > 0) {
      parts.push_back(&part);
    }
  }
}

}  // namespace

std::vector<Lane::Part*> Lane::parts_to_read() {
  std::vector<Part*> parts;
  for (Inlet& inlet : inlets_) {
    add_parts_left(inlet.coming, parts);
    if (inlet.to_learn > 0 && inlet.on_the_way.empty()) {
      parts.push_back(&inlet.times);
    }
  }
  return parts;
}

std::vector<Lane::Part*> Lane::parts_to_write() {
  std::vector<Part*> parts;
  for (Outlet& outlet : outlets_) {
    add_parts_left(outlet.leaving, parts);
    if (!outlet.unsent.empty() && !is_held_back(outlet)) {
      parts.push_back(&outlet.times);
    }
  }
  return parts;
}

int64_t Lane::next_event_ns() const {
  if (is_local_) {
    return step_ == steps_.size() ? time_ns_ : 0;
  }
  int64_t next_ns = 0;
  for (const Inlet& inlet : inlets_) {
    if (!inlet.on_the_way.empty()) {
      const int64_t arrival_ns = inlet.on_the_way.front();
      next_ns = next_ns == 0 ? arrival_ns : std::min(next_ns, arrival_ns);
    }
  }
  return next_ns;
}

namespace {

// Wait until something can proceed; return whether it can before the deadline.
bool wait_for_any(std::vector<Lane>& lanes, HostChain& chain, int64_t now, int64_t deadline_ns) {
  std::vector<Lane::Part*> to_read = chain.parts_to_read();
  std::vector<Lane::Part*> to_write = chain.parts_to_write();
  int64_t until_ns = deadline_ns;
  for (Lane& lane : lanes) {
    if (lane.is_over(now)) {
      continue;
    }
    for (Lane::Part* part : lane.parts_to_read()) {
      to_read.push_back(part);
    }
    for (Lane::Part* part : lane.parts_to_write()) {
      to_write.push_back(part);
    }
    if (lane.next_event_ns() > 0) {
      until_ns = std::min(until_ns, lane.next_event_ns());
    }
  }
  std::vector<pollfd> sockets;
  for (const Lane::Part* part : to_read) {
    sockets.push_back({part->socket, POLLIN, 0});
  }
  for (const Lane::Part* part : to_write) {
    sockets.push_back({part->socket, POLLOUT, 0});
  }
  const int64_t left_ns = std::max<int64_t>(0, until_ns - now);
  const timespec left{left_ns / NS_PER_S, left_ns % NS_PER_S};
  const int ready = ppoll(sockets.data(), sockets.size(), &left, nullptr);
  for (size_t place = 0; place < sockets.size(); ++place) {
    const bool is_read = place < to_read.size();
    Lane::Part* part = is_read ? to_read[place] : to_write[place - to_read.size()];
    part->is_ready = sockets[place].revents != 0;
  }
  return ready != 0 || until_ns < deadline_ns;
}

}  // namespace

void transfer(std::vector<Lane>& lanes, HostChain& chain, int64_t deadline_ns) {
  while (true) {
    const int64_t now = now_ns();
    chain.proceed(lanes, now);
    bool is_over = chain.is_over();
    for (Lane& lane : lanes) {
      lane.proceed(now);
      is_over &= lane.is_over(now);
    }
    if (is_over) {
      return;
    }
    if (!wait_for_any(lanes, chain, now, deadline_ns)) {
      throw std::runtime_error("timed out");
    }
  }
}

}  // namespace testbed
