#include "timeline.h"

#include <dlfcn.h>

#include <algorithm>

#include <cmath>
#include <ctime>

#include "device.h"
#include "graphs.h"
#include "labels.h"

namespace testbed {

namespace {
constexpr int64_t NS_PER_S = 1'000'000'000;
constexpr size_t MOST_DELAYS = 32;              // that another stream may meet later
constexpr size_t MOST_SPANS = 20'000;             // that nobody has taken
constexpr int64_t LONGEST_GAP_NS = 20'000;      // between kernels of one span
constexpr int64_t SHORTEST_WAIT_NS = 20'000;    // that is a span
// Short kernels of a graph begin 3.4 us apart, others 3.8 us (NVIDIA, "Getting Started with CUDA
// Graphs", 2019).
constexpr double SHARE_IN_GRAPH = 3.4 / 3.8;

int64_t kernel_ns(int64_t duration_ns, bool is_in_graph) {
  const double share = is_in_graph ? SHARE_IN_GRAPH : 1;
  return std::max<int64_t>(duration_ns, std::llround(share * accelerator().least_kernel_ns));
}

// A thread that waits lets others run Python: torch calls some operators with Python's lock held, and
// the records of collectives, which may end meanwhile, are written in Python.
class WithoutPython {
 public:
  WithoutPython() {
    static const auto is_held = function<int()>("PyGILState_Check");
    static const auto release = function<void*()>("PyEval_SaveThread");
    if (is_held != nullptr && is_held() != 0) {
      state_ = release();
    }
  }
  ~WithoutPython() {
    static const auto take = function<void(void*)>("PyEval_RestoreThread");
    if (state_ != nullptr) {
      take(state_);
    }
  }
  WithoutPython(const WithoutPython&) = delete;
  WithoutPython& operator=(const WithoutPython&) = delete;

 private:
  template <typename Function>
  static Function* function(const char* name) {
    return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
  }

  void* state_ = nullptr;
};

}  // namespace

int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * NS_PER_S + now.tv_nsec;
}

void sleep_until(int64_t ns) {
  const timespec end{ns / NS_PER_S, ns % NS_PER_S};
  while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &end, nullptr) != 0) {
  }
}

void StreamLine::run_or_queue(const Item& item) {
  if (queue_.empty()) {
    carry_out(item);
  } else {
    queue_.push_back(item);
    queued_launches_ += item.is_launch ? 1 : 0;
  }
}

void StreamLine::run(int64_t begin_ns, int64_t duration_ns, int label, bool is_launch) {
  run_or_queue({Item::Kind::kernel, begin_ns, duration_ns, label, nullptr, nullptr, is_launch});
}

MarkerPtr StreamLine::record(int64_t now) {
  auto marker = std::make_shared<Marker>();
  record(now, marker);
  return marker;
}

void StreamLine::record(int64_t now, const MarkerPtr& marker) {
  run_or_queue({Item::Kind::record, now, 0, 0, marker});
}

void StreamLine::mark(const StepMarkPtr& mark, int64_t now) {
  run_or_queue({Item::Kind::mark, now, 0, 0, nullptr, mark});
}

void StreamLine::wait_for(const MarkerPtr& marker, int64_t now) {
  const Item item{Item::Kind::wait, now, 0, 0, marker};
  if (queue_.empty() && marker->time_ns) {
    carry_out(item);
    return;
  }
  if (queue_.empty()) {
    marker->blocked.push_back(this);
  }
  queue_.push_back(item);
}

void StreamLine::resume() {
  while (!queue_.empty()) {
    const Item item = queue_.front();
    if (item.kind == Item::Kind::wait && !item.marker->time_ns) {
      item.marker->blocked.push_back(this);
      return;
    }
    queue_.pop_front();
    queued_launches_ -= item.is_launch ? 1 : 0;
    carry_out(item);
  }
}

void StreamLine::carry_out(const Item& item) {
  switch (item.kind) {
    case Item::Kind::kernel:
      carry_out_kernel(item);
      return;
    case Item::Kind::wait:
      carry_out_wait(item);
      return;
    case Item::Kind::mark:
      wait_until(item.begin_ns);
      item.mark->end_ns = end_ns_;
      item.mark->use = std::move(use_);
      use_ = {};
      return;
    case Item::Kind::record:
      item.marker->time_ns = std::max(end_ns_, item.begin_ns);
      item.marker->delays = delays_;
      auto blocked = std::move(item.marker->blocked);
      item.marker->blocked.clear();
      for (StreamLine* other : blocked) {
        other->resume();
      }
  }
}

// The stream has nothing to run until then.
void StreamLine::wait_until(int64_t ns) {
  use_.launch_ns += std::max<int64_t>(0, ns - end_ns_);
  end_ns_ = std::max(end_ns_, ns);
}

void StreamLine::carry_out_kernel(const Item& item) {
  wait_until(item.begin_ns);
  if (item.duration_ns > 0) {
    add_span({end_ns_, end_ns_ + item.duration_ns, item.label, nullptr});
  }
  use_.busy_ns += item.duration_ns;
  end_ns_ += item.duration_ns;
  if (item.is_launch) {
    kernel_ends_ns_.push_back(end_ns_);
  }
}

// Of the time until a marker, a part is due to operations that held up the marker's stream.
void StreamLine::carry_out_wait(const Item& item) {
  const int64_t until_ns = *item.marker->time_ns;
  if (until_ns <= std::max(end_ns_, item.begin_ns)) {
    return;
  }
  wait_until(item.begin_ns);
  use_.streams_ns += until_ns - end_ns_;
  if (item.marker->delays != nullptr) {
    for (const Delay& delay : *item.marker->delays) {
      const Delay mine{std::max(delay.begin_ns, end_ns_), std::min(delay.end_ns, until_ns), delay.cause};
      if (mine.end_ns <= mine.begin_ns) {
        continue;
      }
      const int64_t duration_ns = mine.end_ns - mine.begin_ns;
      use_.streams_ns -= duration_ns;
      use_.delays.emplace_back(mine.cause, duration_ns);
      delays_ = delays_and(mine);
      if (duration_ns >= SHORTEST_WAIT_NS) {
        add_span({mine.begin_ns, mine.end_ns, 0, mine.cause});
      }
      end_ns_ = mine.end_ns;
    }
  }
  end_ns_ = until_ns;
}

Delays StreamLine::delays_and(const Delay& delay) const {
  const size_t kept = std::min(delays_->size(), MOST_DELAYS - 1);
  auto more = std::make_shared<std::vector<Delay>>(delays_->end() - static_cast<std::ptrdiff_t>(kept), delays_->end());
  more->push_back(delay);
  return more;
}

void StreamLine::add_span(Span span) {
  if (!spans_.empty()) {
    Span& last = spans_.back();
    const bool continues = last.label == span.label && last.cause == span.cause;
    if (continues && span.begin_ns - last.end_ns <= LONGEST_GAP_NS) {
      last.end_ns = span.end_ns;
      return;
    }
  }
  if (spans_.size() < MOST_SPANS) {
    spans_.push_back(std::move(span));
  }
}

// Return the spans that are complete; the last one may still grow.
std::vector<Span> StreamLine::take_spans(bool is_end) {
  std::vector<Span> taken;
  std::swap(taken, spans_);
  if (!is_end && !taken.empty()) {
    spans_.push_back(std::move(taken.back()));
    taken.pop_back();
  }
  return taken;
}

size_t StreamLine::launched_and_unfinished(int64_t now) {
  while (!kernel_ends_ns_.empty() && kernel_ends_ns_.front() <= now) {
    kernel_ends_ns_.pop_front();
  }
  return kernel_ends_ns_.size() + queued_launches_;
}

TimeLines& TimeLines::all() {
  static auto* lines = new TimeLines;  // threads may use it until the process ends
  return *lines;
}

Graph* TimeLines::capture_of(int device, int64_t stream) const {
  const bool is_captured = capture_ != nullptr && capture_->device() == device && capture_->has(stream);
  return is_captured ? capture_.get() : nullptr;
}

// Only streams of a capture may wait for its markers.
void TimeLines::check_outside(const Marker& marker) const {
  if (marker.graph != 0) {
    if (capture_ != nullptr && capture_->has(marker)) {
      capture_->is_invalid = true;
    }
    raise(CaptureError::captured_event);
  }
}

void TimeLines::run_kernel(int device, int64_t stream, int64_t duration_ns) {
  const int label = label_of_work();
  MarkerPtr half_empty;
  {
    const std::lock_guard lock(mutex_);
    if (Graph* graph = capture_of(device, stream)) {
      graph->add_kernel(stream, kernel_ns(duration_ns, true), label);
      return;
    }
    const int64_t now = now_ns();
    const int64_t longer_ns = kernel_ns(duration_ns, false);
    StreamLine& stream_line = line(device, stream);
    stream_line.run(now, longer_ns, label);
    busy_ns_[device] += longer_ns;
    kernels_[device] += 1;
    if (stream_line.launched_and_unfinished(now) >= LONGEST_QUEUE) {
      half_empty = stream_line.record(now);
    }
  }
  if (half_empty) {
    wait_until_reached(half_empty);
  }
}

MarkerPtr TimeLines::record(int device, int64_t stream) {
  const std::lock_guard lock(mutex_);
  if (Graph* graph = capture_of(device, stream)) {
    return graph->record(stream);
  }
  return line(device, stream).record(now_ns());
}

void TimeLines::block(int device, int64_t stream, const MarkerPtr& marker) {
  const std::lock_guard lock(mutex_);
  if (capture_ != nullptr && capture_->device() == device && capture_->has(*marker)) {
    capture_->wait(stream, *marker);  // the stream joins the capture
    return;
  }
  if (Graph* graph = capture_of(device, stream)) {
    graph->is_invalid = true;
    raise(CaptureError::isolation);
  }
  check_outside(*marker);
  line(device, stream).wait_for(marker, now_ns());
}

void TimeLines::mark(int device, int64_t stream, const StepMarkPtr& mark) {
  const std::lock_guard lock(mutex_);
  line(device, stream).mark(mark, now_ns());
}

void TimeLines::complete(const MarkerPtr& marker, int device, int64_t stream, const Delay& operation) {
  const std::lock_guard lock(mutex_);
  marker->time_ns = operation.end_ns;
  marker->delays = line(device, stream).delays_and(operation);
  auto blocked = std::move(marker->blocked);
  marker->blocked.clear();
  for (StreamLine* stream_line : blocked) {
    stream_line->resume();
  }
  resolved_.notify_all();
}

bool TimeLines::is_known(const StepMark& mark) {
  const std::lock_guard lock(mutex_);
  return mark.end_ns.has_value();
}

std::vector<StreamSpan> TimeLines::take_spans(bool is_end) {
  const std::lock_guard lock(mutex_);
  std::vector<StreamSpan> taken;
  for (auto& [key, stream_line] : lines_) {
    for (Span& span : stream_line.take_spans(is_end)) {
      taken.push_back({key.first, key.second, std::move(span)});
    }
  }
  return taken;
}

int64_t TimeLines::resolved_time(const MarkerPtr& marker) {
  const WithoutPython others_run;
  std::unique_lock lock(mutex_);
  check_outside(*marker);
  resolved_.wait(lock, [&] { return marker->time_ns.has_value(); });
  return *marker->time_ns;
}

void TimeLines::wait_until_reached(const MarkerPtr& marker) {
  const WithoutPython others_run;
  const int64_t time_ns = resolved_time(marker);
  if (time_ns > now_ns()) {
    sleep_until(time_ns);
  }
}

bool TimeLines::is_reached(const MarkerPtr& marker) {
  const std::lock_guard lock(mutex_);
  check_outside(*marker);
  return marker->time_ns && *marker->time_ns <= now_ns();
}

void TimeLines::synchronize(int device, int64_t stream) {
  {
    const std::lock_guard lock(mutex_);
    if (Graph* graph = capture_of(device, stream)) {
      graph->is_invalid = true;
      raise(CaptureError::unsupported);
    }
  }
  wait_until_reached(record(device, stream));
}

void TimeLines::synchronize(int device) {
  std::vector<MarkerPtr> ends;
  {
    const std::lock_guard lock(mutex_);
    if (capture_ != nullptr && capture_->device() == device) {
      capture_->is_invalid = true;
      raise(CaptureError::unsupported);
    }
    for (auto& [key, stream_line] : lines_) {
      if (key.first == device) {
        ends.push_back(stream_line.record(now_ns()));
      }
    }
  }
  for (const MarkerPtr& end : ends) {
    wait_until_reached(end);
  }
}

int64_t TimeLines::busy_ns(int device) {
  const std::lock_guard lock(mutex_);
  return busy_ns_[device];
}

int64_t TimeLines::kernels(int device) {
  const std::lock_guard lock(mutex_);
  return kernels_[device];
}

}  // namespace testbed
