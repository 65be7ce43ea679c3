#include "graphs.h"

#include <ATen/core/Tensor.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <string>

#include "device.h"
#include "values.h"

namespace testbed {

namespace {

constexpr int64_t FIRST_BRANCH = 100;       // streams of branches of graphs: above those of torch's pool
constexpr int64_t BRANCHES = 800;           // and below those of communicators
constexpr int64_t BRANCHES_OF_A_GRAPH = 40;
constexpr int64_t FIRST_OF_COMMUNICATORS = 1000;

uint64_t graphs_so_far = 0;
uint64_t pools_so_far = 0;

// Return a tensor of the bytes of a storage.
at::Tensor bytes_of(const c10::intrusive_ptr<c10::StorageImpl>& storage) {
  const auto bytes = static_cast<int64_t>(storage->nbytes());
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), caffe2::TypeMeta::Make<uint8_t>());
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous({bytes});
  return tensor;
}

}  // namespace

const char* text_of(CaptureError error) {
  switch (error) {
    case CaptureError::illegal_state:
      return "CUDA error: the operation cannot be performed in the present state";
    case CaptureError::unsupported:
      return "CUDA error: operation not permitted when stream is capturing";
    case CaptureError::invalidated:
      return "CUDA error: operation failed due to a previous error during capture";
    case CaptureError::unjoined:
      return "CUDA error: capturing stream has unjoined work";
    case CaptureError::isolation:
      return "CUDA error: dependency created on uncaptured work in another stream";
    case CaptureError::captured_event:
      return "CUDA error: operation not permitted on an event last recorded in a capturing stream";
  }
  return "CUDA error";
}

void raise(CaptureError error) {
  throw c10::AcceleratorError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, static_cast<int32_t>(error),
                              text_of(error));
}

Graph::Graph(uint64_t id, int device, int64_t origin, PoolPtr pool)
    : id_(id), device_(device), origin_(origin), pool_(std::move(pool)) {
  clocks_[origin];
  hold_pool(pool_);
}

Graph::~Graph() { release_pool(pool_); }

void Graph::add_kernel(int64_t stream, KernelTime duration, int label) {
  nodes_.push_back({GraphNode::Kind::kernel, stream, duration, label});
  clocks_[stream][stream] = ++works_[stream];
}

int Graph::new_marker(Marker& marker, const Clock& clock) {
  marker.graph = id_;
  marker.number = markers();
  clocks_of_markers_.push_back(clock);
  return marker.number;
}

MarkerPtr Graph::record(int64_t stream) {
  auto marker = std::make_shared<Marker>();
  const int number = new_marker(*marker, clocks_[stream]);
  nodes_.push_back({GraphNode::Kind::record, stream, {0}, 0, number});
  return marker;
}

void Graph::wait(int64_t stream, const Marker& marker) {
  auto& clock = clocks_[stream];
  for (const auto& [other, works] : clocks_of_markers_[marker.number]) {
    clock[other] = std::max(clock[other], works);
  }
  nodes_.push_back({GraphNode::Kind::wait, stream, {0}, 0, marker.number});
}

void Graph::mark(int64_t stream, Counts counts) {
  nodes_.push_back({GraphNode::Kind::mark, stream, {0}, 0, -1, -1, nullptr, std::move(counts)});
}

void Graph::add_operation(int64_t stream, const MarkerPtr& start, const MarkerPtr& end, Launch launch) {
  clocks_[stream][stream] = ++works_[stream];
  const int number = new_marker(*end, clocks_[stream]);
  nodes_.push_back({GraphNode::Kind::operation, stream, {0}, 0, start->number, number, std::move(launch)});
}

bool Graph::is_joined() const {
  const Clock& reached = clocks_.at(origin_);
  for (const auto& [stream, works] : works_) {
    const auto found = reached.find(stream);
    if (found == reached.end() || found->second < works) {
      return false;
    }
  }
  return true;
}

void Graph::note_written(const at::Tensor& tensor) {
  if (can_have_values(tensor)) {
    c10::StorageImpl* storage = tensor.storage().unsafeGetStorageImpl();
    written_.insert_or_assign(
        storage, c10::weak_intrusive_ptr<c10::StorageImpl>(
                     c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(storage)));
  }
}

void Graph::forget_written() const {
  for (const auto& [place, storage] : written_) {
    if (const auto alive = storage.lock()) {
      forget_values(bytes_of(alive));
    }
  }
}

int64_t Graph::place(int64_t captured, int64_t stream) const {
  if (captured == origin_) {
    return stream;
  }
  if (captured >= FIRST_OF_COMMUNICATORS) {
    return captured;
  }
  return FIRST_BRANCH + (static_cast<int64_t>(id_) * BRANCHES_OF_A_GRAPH + captured) % BRANCHES;
}

namespace {

using GraphPtr = std::shared_ptr<Graph>;

int begin_capture(int device, int64_t stream, uint64_t pool) {
  auto& lines = TimeLines::all();
  const auto graph = std::make_shared<Graph>(++graphs_so_far, device, stream, pool_of(device, pool));
  if (!lines.begin_capture(graph)) {
    return static_cast<int>(CaptureError::illegal_state);
  }
  graph->rest = exchange_counts({});
  return 0;
}

// Return the graph; null if the capture has failed.
GraphPtr end_capture(int* code) {
  const GraphPtr graph = TimeLines::all().end_capture();
  graph->rest = exchange_counts(std::move(graph->rest));
  if (graph->is_invalid) {
    *code = static_cast<int>(CaptureError::invalidated);
  } else if (!graph->is_joined()) {
    *code = static_cast<int>(CaptureError::unjoined);
  }
  return *code == 0 ? graph : nullptr;
}

void replay(const Graph& graph, int64_t stream) {
  std::vector<StepMarkPtr> marks;
  for (const GraphNode& node : graph.nodes()) {
    if (node.kind == GraphNode::Kind::mark) {
      add_counts(node.counts);
      marks.push_back(new_step(graph.device()));
    }
  }
  add_counts(graph.rest);
  graph.forget_written();
  TimeLines::all().replay(graph, stream, marks);
}

}  // namespace

}  // namespace testbed

extern "C" {

uint64_t testbed_new_pool() { return ++testbed::pools_so_far; }

// Begin to capture the work of a stream and of those that join it; return an error of CUDA or 0.
int testbed_begin_capture(int device, int64_t stream, uint64_t pool) {
  return testbed::begin_capture(device, stream, pool);
}

// End the capture; return the graph, or null and an error of CUDA.
void* testbed_end_capture(int* code) {
  *code = 0;
  const auto graph = testbed::end_capture(code);
  return graph == nullptr ? nullptr : new testbed::GraphPtr(graph);
}

int testbed_graph_nodes(const void* graph) {
  return static_cast<int>((*static_cast<const testbed::GraphPtr*>(graph))->nodes().size());
}

int testbed_is_capturing(int device, int64_t stream) {
  return static_cast<int>(testbed::TimeLines::all().is_captured(device, stream));
}

// Put the work of a graph on a stream of its device; return an error of CUDA or 0.
int testbed_replay(const void* graph, int64_t stream) {
  const auto& one = *static_cast<const testbed::GraphPtr*>(graph);
  if (testbed::TimeLines::all().is_captured(one->device(), stream)) {
    return static_cast<int>(testbed::CaptureError::unsupported);
  }
  testbed::replay(*one, stream);
  return 0;
}

void testbed_destroy_graph(void* graph) { delete static_cast<testbed::GraphPtr*>(graph); }

const char* testbed_error_text(int code) { return testbed::text_of(static_cast<testbed::CaptureError>(code)); }

}  // extern "C"
