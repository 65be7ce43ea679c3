// Streams while a graph is captured, and replays.
#include <algorithm>

#include "clock.h"
#include "graphs.h"
#include "timeline.h"

namespace testbed {

bool TimeLines::begin_capture(const std::shared_ptr<Graph>& graph) {
  const std::lock_guard lock(mutex_);
  if (capture_ != nullptr) {
    return false;
  }
  capture_ = graph;
  return true;
}

std::shared_ptr<Graph> TimeLines::end_capture() {
  const std::lock_guard lock(mutex_);
  return std::exchange(capture_, nullptr);
}

bool TimeLines::is_captured(int device, int64_t stream) {
  const std::lock_guard lock(mutex_);
  return capture_of(device, stream) != nullptr;
}

std::shared_ptr<Graph> TimeLines::graph_of(int device, int64_t stream) {
  const std::lock_guard lock(mutex_);
  return capture_of(device, stream) == nullptr ? nullptr : capture_;
}

void TimeLines::capture_operation(int device, int64_t stream, const MarkerPtr& start, const MarkerPtr& end,
                                  std::function<void(const MarkerPtr&, const MarkerPtr&)> launch) {
  const std::lock_guard lock(mutex_);
  if (Graph* graph = capture_of(device, stream)) {
    graph->add_operation(stream, start, end, std::move(launch));
    graph->wait(stream, *end);
  }
}

// The branches of a graph wait for markers of its first stream, so they begin after the work before.
void TimeLines::replay(const Graph& graph, int64_t stream, const std::vector<StepMarkPtr>& marks) {
  std::vector<MarkerPtr> markers;
  for (int number = 0; number < graph.markers(); ++number) {
    markers.push_back(std::make_shared<Marker>());
  }
  std::vector<std::function<void()>> launches;
  MarkerPtr queue_empty;
  const int device = graph.device();
  {
    const std::lock_guard lock(mutex_);
    const int64_t now = now_ns();
    auto mark = marks.begin();
    for (const GraphNode& node : graph.nodes()) {
      StreamLine& stream_line = line(device, graph.place(node.stream, stream));
      switch (node.kind) {
        case GraphNode::Kind::kernel:
          stream_line.run(now, node.duration, node.label, false);
          busy_ns_[device] += node.duration.ns;
          kernels_[device] += 1;
          break;
        case GraphNode::Kind::record:
          stream_line.record(now, markers[node.marker]);
          break;
        case GraphNode::Kind::wait:
          stream_line.wait_for(markers[node.marker], now);
          break;
        case GraphNode::Kind::mark:
          stream_line.mark(*mark++, now);
          break;
        case GraphNode::Kind::operation:
          launches.emplace_back([&, one = &node] { one->launch(markers[one->marker], markers[one->end_marker]); });
      }
    }
    StreamLine& first_line = line(device, stream);
    first_line.run(now, {0}, 0);  // the whole graph is one launch
    if (first_line.launched_and_unfinished(now) >= LONGEST_QUEUE) {
      queue_empty = first_line.record(now);
    }
  }
  for (const auto& launch : launches) {
    launch();
  }
  if (queue_empty) {
    wait_until_reached(queue_empty);
  }
}

}  // namespace testbed
