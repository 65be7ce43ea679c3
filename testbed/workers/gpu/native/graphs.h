// CUDA graphs: the work that a capture has put on streams, to be put on them again.
#pragma once

#include <c10/core/StorageImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "memory.h"
#include "steps.h"
#include "timeline.h"

namespace testbed {

// Errors of the CUDA runtime about captures, by their codes.
enum class CaptureError {
  illegal_state = 401,
  unsupported = 900,
  invalidated = 901,
  unjoined = 904,
  isolation = 905,
  captured_event = 907
};
const char* text_of(CaptureError error);
[[noreturn]] void raise(CaptureError error);

// Puts an operation of a communicator on its stream again, between the two markers.
using Launch = std::function<void(const MarkerPtr& start, const MarkerPtr& end)>;

// One piece of captured work; markers have numbers.
struct GraphNode {
  enum class Kind { kernel, record, wait, mark, operation } kind;
  int64_t stream;
  KernelTime duration = {0};
  int label = 0;
  int marker = -1;      // set by a record, waited for, or the start of an operation
  int end_marker = -1;  // of an operation
  Launch launch = nullptr;
  Counts counts = {};   // of a mark: what the step has computed until there
};

class Graph {
 public:
  Graph(uint64_t id, int device, int64_t origin, PoolPtr pool);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  uint64_t id() const { return id_; }
  int device() const { return device_; }
  int64_t origin() const { return origin_; }
  const PoolPtr& pool() const { return pool_; }
  const std::vector<GraphNode>& nodes() const { return nodes_; }
  int markers() const { return static_cast<int>(clocks_of_markers_.size()); }
  Counts rest;  // what is computed after the last mark

  // While the work is captured; calls need the lock of `TimeLines`.
  bool has(int64_t stream) const { return clocks_.count(stream) > 0; }
  bool has(const Marker& marker) const { return marker.graph == id_; }
  void add_kernel(int64_t stream, KernelTime duration, int label);
  MarkerPtr record(int64_t stream);
  void wait(int64_t stream, const Marker& marker);
  void mark(int64_t stream, Counts counts);
  void add_operation(int64_t stream, const MarkerPtr& start, const MarkerPtr& end, Launch launch);
  bool is_joined() const;
  bool is_invalid = false;

  // Note that the work writes a tensor, whose values are unknown after each replay.
  void note_written(const at::Tensor& tensor);
  void forget_written() const;

  // Return the stream on which a replay on `stream` runs the work of a captured one.
  int64_t place(int64_t captured, int64_t stream) const;

 private:
  using Clock = std::map<int64_t, int64_t>;  // pieces of work by stream that have ended by then

  int new_marker(Marker& marker, const Clock& clock);

  uint64_t id_;
  int device_;
  int64_t origin_;
  PoolPtr pool_;
  std::vector<GraphNode> nodes_;
  std::map<int64_t, Clock> clocks_;
  std::map<int64_t, int64_t> works_;
  std::vector<Clock> clocks_of_markers_;
  std::map<c10::StorageImpl*, c10::weak_intrusive_ptr<c10::StorageImpl>> written_;
};

}  // namespace testbed
