// Streams as time lines: the time at which each stream has finished its work, on the run's clock.
//
// Work that is put on a stream has a known duration, so the stream's end is known as well, except
// after it waits for a collective: the end of a collective is known once the collective has ended.
// Until then the stream keeps the work that follows in a queue.
//
// While a collective runs, it holds multiprocessors and a part of the memory's rate, and kernels of
// other streams take longer. So times after the present are forecasts, which are worked out again
// whenever a collective begins or ends. Times until the present are settled.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace testbed {

// CUDA lets the CPU put about a thousand kernels on a stream before a launch waits.
constexpr size_t LONGEST_QUEUE = 1024;

class Graph;
class StreamLine;

// An operation of a communicator, for which streams wait; Python knows it by its label.
struct Cause {
  std::atomic<int> label{-1};
};
using CausePtr = std::shared_ptr<Cause>;

// A time in which a stream waited for an operation.
struct Delay {
  int64_t begin_ns;
  int64_t end_ns;
  CausePtr cause;
};
using Delays = std::shared_ptr<const std::vector<Delay>>;

// What a stream has done; the times add up.
struct StreamUse {
  int64_t busy_ns = 0;     // it ran kernels
  int64_t launch_ns = 0;   // it had nothing to run
  int64_t streams_ns = 0;  // it waited for kernels of other streams
  std::vector<std::pair<CausePtr, int64_t>> delays;  // it waited for operations
};

// The end of a step on a stream, and what the stream has done since the mark before.
struct StepMark {
  std::optional<int64_t> end_ns;
  StreamUse use;
};
using StepMarkPtr = std::shared_ptr<StepMark>;

// Kernels of one label that follow each other on a stream, or a wait for an operation.
struct Span {
  int64_t begin_ns;
  int64_t end_ns;
  int label;
  CausePtr cause;  // none for kernels
};

struct StreamSpan {
  int device;
  int64_t stream;
  Span span;
};

// What the kernels of collectives take from other kernels of a device.
struct Occupancy {
  int multiprocessors = 0;
  double bytes_per_ns = 0;  // of the memory
  double free_multiprocessors() const;  // as a part of all
  double free_memory_rate() const;      // as a part of the whole rate
};

// How long a kernel takes if it has the device for itself.
struct KernelTime {
  int64_t ns;
  int64_t arithmetic_ns = 0;  // of its products alone, which take longer on fewer multiprocessors
  int64_t memory_ns = 0;      // of its traffic alone
};

// A point of a stream: an event, or the end of a collective.
struct Marker {
  std::optional<int64_t> time_ns;  // a forecast if it is after the present
  uint64_t graph = 0;  // in whose capture the marker was set; 0: in none
  int number = -1;     // in that graph
  Delays delays;                     // for operations, shortly before, where the marker is
  std::vector<StreamLine*> blocked;  // streams whose next work waits for this marker
};
using MarkerPtr = std::shared_ptr<Marker>;

// The work of a stream in its order. Calls need the lock of `TimeLines`.
class StreamLine {
 public:
  // Run a kernel; one that is a part of a graph is no launch.
  void run(int64_t begin_ns, KernelTime duration, int label, bool is_launch = true);
  MarkerPtr record(int64_t now);
  void record(int64_t now, const MarkerPtr& marker);
  void wait_for(const MarkerPtr& marker, int64_t now);
  void mark(const StepMarkPtr& mark, int64_t now);
  void resume();
  void be_on(const Occupancy* occupancy) { occupancy_ = occupancy; }
  void settle(int64_t now);     // account for the work that has ended by then
  void take_back(int64_t now);  // queue the work again that has not ended by then
  Delays delays_and(const Delay& delay) const;
  std::vector<Span> take_spans(bool is_end);
  size_t launched_and_unfinished(int64_t now);

 private:
  struct Item {
    enum class Kind { kernel, record, wait, mark } kind;
    int64_t begin_ns;  // not before
    KernelTime duration = {0};
    int label = 0;
    MarkerPtr marker = nullptr;
    StepMarkPtr mark = nullptr;
    bool is_launch = false;
  };
  // Work whose times are known, but not yet settled.
  struct Forecast {
    Item item;
    int64_t before_ns;  // the stream's end before the work
    Delays delays_before;
    int64_t begin_ns = 0;
    int64_t end_ns = 0;
    std::vector<Delay> delays = {};  // of a wait
  };
  void run_or_queue(const Item& item);
  void carry_out(const Item& item);
  void forecast_wait(Forecast& forecast);
  int64_t duration_ns(const Item& item) const;
  void account(const Forecast& work);
  void account_wait(const Forecast& work);
  void add_span(Span span);

  int64_t end_ns_ = 0;
  std::deque<Item> queue_;
  size_t queued_launches_ = 0;
  std::deque<Forecast> forecasts_;
  size_t forecast_launches_ = 0;
  const Occupancy* occupancy_ = nullptr;
  StreamUse use_;
  Delays delays_ = std::make_shared<std::vector<Delay>>();  // the last ones
  std::vector<Span> spans_;
};

// All streams of this process, by device and stream number.
class TimeLines {
 public:
  static TimeLines& all();

  // Run a kernel that takes `duration`, or the least time of a kernel.
  void run_kernel(int device, int64_t stream, KernelTime duration);
  MarkerPtr record(int device, int64_t stream);
  void block(int device, int64_t stream, const MarkerPtr& marker);
  void mark(int device, int64_t stream, const StepMarkPtr& mark);

  // Graphs: work of captured streams becomes a part of the graph, and takes no time.
  bool begin_capture(const std::shared_ptr<Graph>& graph);  // false: another one is under way
  std::shared_ptr<Graph> end_capture();
  bool is_captured(int device, int64_t stream);
  std::shared_ptr<Graph> graph_of(int device, int64_t stream);  // null: the stream is not captured
  // Capture an operation of a communicator, between the two markers, on the communicator's stream.
  void capture_operation(int device, int64_t stream, const MarkerPtr& start, const MarkerPtr& end,
                         std::function<void(const MarkerPtr&, const MarkerPtr&)> launch);
  void replay(const Graph& graph, int64_t stream, const std::vector<StepMarkPtr>& marks);

  // Begin an operation of a communicator, which holds something until it ends.
  void begin(int device, const Occupancy& held);
  // End an operation of a communicator, whose stream is given.
  void complete(const MarkerPtr& marker, int device, int64_t stream, const Delay& operation, const Occupancy& held);

  void settle(bool is_end);  // until the present, or all
  bool is_known(const StepMark& mark);
  std::vector<StreamSpan> take_spans(bool is_end);

  int64_t wait_until_reached(const MarkerPtr& marker);  // returns the time
  bool is_reached(const MarkerPtr& marker);
  void synchronize(int device, int64_t stream);
  void synchronize(int device);
  int64_t busy_ns(int device);  // sum of the durations that all kernels have alone
  int64_t kernels(int device);

 private:
  StreamLine& line(int device, int64_t stream);
  void hold(int device, const Occupancy& held, int sign);
  Graph* capture_of(int device, int64_t stream) const;
  void check_outside(const Marker& marker) const;

  std::mutex mutex_;
  std::condition_variable resolved_;
  std::map<int, Occupancy> occupancies_;  // by device
  std::map<std::pair<int, int64_t>, StreamLine> lines_;
  std::map<int, int64_t> busy_ns_;
  std::map<int, int64_t> kernels_;
  std::shared_ptr<Graph> capture_;  // null: none is under way
};

}  // namespace testbed
