#include "sockets.h"

#include <arpa/inet.h>
#include <c10/util/Exception.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace testbed {

namespace {

constexpr int BACKLOG = 4096;

void check(bool is_good, const char* call) {
  TORCH_CHECK(is_good, "NCCL error: ", call, ": ", strerror(errno));
}

sockaddr_in address_of(const std::string& address, int port) {
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<uint16_t>(port));
  check(inet_pton(AF_INET, address.c_str(), &place.sin_addr) == 1, "inet_pton");
  return place;
}

// Bind or connect a new socket for the ranks of a host, by a name that the host's network namespace has.
int local_socket(const std::string& place, int (*attach)(int, const sockaddr*, socklen_t), const char* call) {
  const std::string name = "testbed-nccl-" + place;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(made >= 0, "socket");
  check(attach(made, reinterpret_cast<sockaddr*>(&address), size) == 0, call);
  return made;
}

void send_at_once(int socket) {
  const int yes = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

}  // namespace

Listener::Listener(const std::string& address) {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(socket_ >= 0, "socket");
  sockaddr_in place = address_of(address, 0);
  check(bind(socket_, reinterpret_cast<sockaddr*>(&place), sizeof place) == 0, "bind");
  check(listen(socket_, BACKLOG) == 0, "listen");
  socklen_t size = sizeof place;
  check(getsockname(socket_, reinterpret_cast<sockaddr*>(&place), &size) == 0, "getsockname");
  place_ = address + ":" + std::to_string(ntohs(place.sin_port));
  local_socket_ = local_socket(place_, bind, "bind");
  check(listen(local_socket_, BACKLOG) == 0, "listen");
}

Listener::~Listener() {
  close(socket_);
  close(local_socket_);
}

int Listener::accept_one() const {
  std::array<pollfd, 2> sockets{{{socket_, POLLIN, 0}, {local_socket_, POLLIN, 0}}};
  while (poll(sockets.data(), sockets.size(), -1) < 0) {
    check(errno == EINTR, "poll");
  }
  const bool is_local = sockets[1].revents != 0;
  const int accepted = accept4(is_local ? local_socket_ : socket_, nullptr, nullptr, SOCK_CLOEXEC);
  check(accepted >= 0, "accept");
  if (!is_local) {
    send_at_once(accepted);
  }
  return accepted;
}

int connect_locally(const std::string& place) { return local_socket(place, connect, "connect"); }

int connect_to(const std::string& place) {
  const auto colon = place.rfind(':');
  const int port = std::stoi(place.substr(colon + 1));
  sockaddr_in peer = address_of(place.substr(0, colon), port);
  const int connected = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(connected >= 0, "socket");
  send_at_once(connected);
  check(connect(connected, reinterpret_cast<sockaddr*>(&peer), sizeof peer) == 0, "connect");
  return connected;
}

void write_all(int socket, const void* data, size_t bytes) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = send(socket, next, bytes, MSG_NOSIGNAL);
    check(sent > 0, "send");
    next += sent;
    bytes -= static_cast<size_t>(sent);
  }
}

void read_all(int socket, void* data, size_t bytes) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t received = recv(socket, next, bytes, 0);
    check(received > 0, "recv");
    next += received;
    bytes -= static_cast<size_t>(received);
  }
}

}  // namespace testbed
