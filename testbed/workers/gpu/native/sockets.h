// Connections between the ranks of a communicator: TCP, and Unix sockets inside a host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace testbed {

// One end of a connection of NCCL: a channel's sockets, over which messages are divided.
struct Connection {
  std::vector<int> sockets;
  bool is_local = false;  // both ends are on one host
  size_t next_socket = 0;
  std::vector<char> rest = {};  // bytes of an incomplete time
};

// A rank's listening sockets: on the host's address, and for ranks of the same host.
class Listener {
 public:
  explicit Listener(const std::string& address);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  std::string place() const { return place_; }  // "address:port"
  int accept_one() const;

 private:
  int socket_;
  int local_socket_;
  std::string place_;
};

int connect_to(const std::string& place);
int connect_locally(const std::string& place);  // to a rank of the same host
void write_all(int socket, const void* data, size_t bytes);
void read_all(int socket, void* data, size_t bytes);

}  // namespace testbed
