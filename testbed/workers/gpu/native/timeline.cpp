#include "timeline.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "clock.h"
#include "device.h"
#include "graphs.h"
#include "labels.h"

namespace testbed {

namespace {
constexpr size_t MOST_DELAYS = 32;              // that another stream may meet later
constexpr size_t MOST_SPANS = 20'000;             // that nobody has taken
constexpr int64_t LONGEST_GAP_NS = 20'000;      // between kernels of one span
constexpr int64_t SHORTEST_WAIT_NS = 20'000;    // that is a span
// Short kernels of a graph begin 3.4 us apart, others 3.8 us (NVIDIA, "Getting Started with CUDA
// Graphs", 2019).
constexpr double SHARE_IN_GRAPH = 3.4 / 3.8;
constexpr double LEAST_FREE_RATE = 0.1;  // of the memory, however many operations run at once

KernelTime kernel_time(KernelTime duration, bool is_in_graph) {
  const double share = is_in_graph ? SHARE_IN_GRAPH : 1;
  const int64_t least_ns = std::llround(share * accelerator().least_kernel_ns);
  return {std::max(duration.ns, least_ns), duration.arithmetic_ns, duration.memory_ns};
}

std::chrono::system_clock::time_point clock_time(int64_t ns) {
  return std::chrono::system_clock::time_point(std::chrono::nanoseconds(ns));
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

double Occupancy::free_multiprocessors() const {
  const int all = accelerator().multiprocessors;
  return static_cast<double>(all - std::min(multiprocessors, all - 1)) / all;
}

double Occupancy::free_memory_rate() const {
  return std::max(LEAST_FREE_RATE, 1 - bytes_per_ns / accelerator().bytes_per_ns);
}

void StreamLine::run_or_queue(const Item& item) {
  if (queue_.empty()) {
    carry_out(item);
  } else {
    queue_.push_back(item);
    queued_launches_ += item.is_launch ? 1 : 0;
  }
}

void StreamLine::run(int64_t begin_ns, KernelTime duration, int label, bool is_launch) {
  run_or_queue({Item::Kind::kernel, begin_ns, duration, label, nullptr, nullptr, is_launch});
}

MarkerPtr StreamLine::record(int64_t now) {
  auto marker = std::make_shared<Marker>();
  record(now, marker);
  return marker;
}

void StreamLine::record(int64_t now, const MarkerPtr& marker) {
  run_or_queue({Item::Kind::record, now, {0}, 0, marker});
}

void StreamLine::mark(const StepMarkPtr& mark, int64_t now) {
  run_or_queue({Item::Kind::mark, now, {0}, 0, nullptr, mark});
}

void StreamLine::wait_for(const MarkerPtr& marker, int64_t now) {
  const Item item{Item::Kind::wait, now, {0}, 0, marker};
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
      auto& blocked = item.marker->blocked;
      if (std::find(blocked.begin(), blocked.end(), this) == blocked.end()) {
        blocked.push_back(this);
      }
      return;
    }
    queue_.pop_front();
    queued_launches_ -= item.is_launch ? 1 : 0;
    carry_out(item);
  }
}

// Work out the times of a piece of work from the end of the stream, and move the end.
void StreamLine::carry_out(const Item& item) {
  Forecast forecast{item, end_ns_, delays_};
  forecast.begin_ns = std::max(end_ns_, item.begin_ns);
  forecast.end_ns = forecast.begin_ns;
  switch (item.kind) {
    case Item::Kind::kernel:
      forecast.end_ns += duration_ns(item);
      end_ns_ = forecast.end_ns;
      forecast_launches_ += item.is_launch ? 1 : 0;
      break;
    case Item::Kind::wait:
      forecast_wait(forecast);
      break;
    case Item::Kind::mark:
      end_ns_ = forecast.end_ns;
      break;
    case Item::Kind::record:
      item.marker->time_ns = forecast.end_ns;
      item.marker->delays = delays_;
      break;
  }
  forecasts_.push_back(std::move(forecast));
  if (item.kind == Item::Kind::record) {
    auto blocked = std::move(item.marker->blocked);
    item.marker->blocked.clear();
    for (StreamLine* other : blocked) {
      other->resume();
    }
  }
}

int64_t StreamLine::duration_ns(const Item& item) const {
  const double arithmetic_ns = static_cast<double>(item.duration.arithmetic_ns) / occupancy_->free_multiprocessors();
  const double memory_ns = static_cast<double>(item.duration.memory_ns) / occupancy_->free_memory_rate();
  return std::max<int64_t>(item.duration.ns, std::llround(std::max(arithmetic_ns, memory_ns)));
}

// Of the time until a marker, a part is due to operations that held up the marker's stream.
void StreamLine::forecast_wait(Forecast& forecast) {
  const Marker& marker = *forecast.item.marker;
  const int64_t until_ns = *marker.time_ns;
  if (until_ns <= forecast.begin_ns) {
    return;
  }
  end_ns_ = forecast.begin_ns;
  if (marker.delays != nullptr) {
    for (const Delay& delay : *marker.delays) {
      const Delay mine{std::max(delay.begin_ns, end_ns_), std::min(delay.end_ns, until_ns), delay.cause};
      if (mine.end_ns > mine.begin_ns) {
        forecast.delays.push_back(mine);
        delays_ = delays_and(mine);
        end_ns_ = mine.end_ns;
      }
    }
  }
  forecast.end_ns = until_ns;
  end_ns_ = until_ns;
}

void StreamLine::settle(int64_t now) {
  while (!forecasts_.empty() && forecasts_.front().end_ns <= now) {
    account(forecasts_.front());
    forecast_launches_ -= forecasts_.front().item.is_launch ? 1 : 0;
    forecasts_.pop_front();
  }
}

void StreamLine::account(const Forecast& work) {
  const bool is_point = work.item.kind == Item::Kind::record || work.item.kind == Item::Kind::wait;
  if (!is_point || work.end_ns > work.begin_ns) {  // before the work the stream had nothing to run
    use_.launch_ns += work.begin_ns - work.before_ns;
  }
  switch (work.item.kind) {
    case Item::Kind::kernel:
      use_.busy_ns += work.end_ns - work.begin_ns;
      if (work.end_ns > work.begin_ns) {
        add_span({work.begin_ns, work.end_ns, work.item.label, nullptr});
      }
      return;
    case Item::Kind::wait:
      account_wait(work);
      return;
    case Item::Kind::mark:
      work.item.mark->end_ns = work.end_ns;
      work.item.mark->use = std::move(use_);
      use_ = {};
      return;
    case Item::Kind::record:
      return;
  }
}

void StreamLine::account_wait(const Forecast& work) {
  use_.streams_ns += work.end_ns - work.begin_ns;
  for (const Delay& delay : work.delays) {
    const int64_t delay_ns = delay.end_ns - delay.begin_ns;
    use_.streams_ns -= delay_ns;
    use_.delays.emplace_back(delay.cause, delay_ns);
    if (delay_ns >= SHORTEST_WAIT_NS) {
      add_span({delay.begin_ns, delay.end_ns, 0, delay.cause});
    }
  }
}

// Of a kernel that is running, the part that is left is work of its own.
void StreamLine::take_back(int64_t now) {
  settle(now);
  if (forecasts_.empty()) {
    return;
  }
  Forecast& first = forecasts_.front();
  end_ns_ = first.before_ns;
  delays_ = first.delays_before;
  if (first.item.kind == Item::Kind::kernel && first.begin_ns < now) {
    const double left = static_cast<double>(first.end_ns - now) / static_cast<double>(first.end_ns - first.begin_ns);
    Forecast over = first;
    over.end_ns = now;
    account(over);
    end_ns_ = now;
    KernelTime& duration = first.item.duration;
    duration.ns = std::llround(left * static_cast<double>(duration.ns));
    duration.arithmetic_ns = std::llround(left * static_cast<double>(duration.arithmetic_ns));
    duration.memory_ns = std::llround(left * static_cast<double>(duration.memory_ns));
  }
  for (auto work = forecasts_.rbegin(); work != forecasts_.rend(); ++work) {
    if (work->item.kind == Item::Kind::record) {
      work->item.marker->time_ns.reset();
    }
    queued_launches_ += work->item.is_launch ? 1 : 0;
    queue_.push_front(std::move(work->item));
  }
  forecasts_.clear();
  forecast_launches_ = 0;
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
  settle(now);
  return forecast_launches_ + queued_launches_;
}

TimeLines& TimeLines::all() {
  static auto* lines = new TimeLines;  // threads may use it until the process ends
  return *lines;
}

StreamLine& TimeLines::line(int device, int64_t stream) {
  const auto [place, is_new] = lines_.try_emplace({device, stream});
  if (is_new) {
    place->second.be_on(&occupancies_[device]);
  }
  return place->second;
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

void TimeLines::run_kernel(int device, int64_t stream, KernelTime duration) {
  const int label = label_of_work();
  MarkerPtr half_empty;
  {
    const std::lock_guard lock(mutex_);
    if (Graph* graph = capture_of(device, stream)) {
      graph->add_kernel(stream, kernel_time(duration, true), label);
      return;
    }
    const int64_t now = now_ns();
    const KernelTime longer = kernel_time(duration, false);
    StreamLine& stream_line = line(device, stream);
    stream_line.run(now, longer, label);
    busy_ns_[device] += longer.ns;
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

// Let operations hold so much more from now on, or less by a negative sign.
void TimeLines::hold(int device, const Occupancy& held, int sign) {
  if (held.multiprocessors == 0 && held.bytes_per_ns == 0) {
    return;
  }
  const int64_t now = now_ns();
  for (auto& [key, stream_line] : lines_) {
    stream_line.take_back(now);
  }
  Occupancy& all = occupancies_[device];
  all.multiprocessors += sign * held.multiprocessors;
  all.bytes_per_ns += sign * held.bytes_per_ns;
  for (auto& [key, stream_line] : lines_) {
    stream_line.resume();
  }
  resolved_.notify_all();
}

void TimeLines::begin(int device, const Occupancy& held) {
  const std::lock_guard lock(mutex_);
  hold(device, held, 1);
}

void TimeLines::complete(const MarkerPtr& marker, int device, int64_t stream, const Delay& operation,
                         const Occupancy& held) {
  const std::lock_guard lock(mutex_);
  marker->time_ns = operation.end_ns;
  marker->delays = line(device, stream).delays_and(operation);
  hold(device, held, -1);
  auto blocked = std::move(marker->blocked);
  marker->blocked.clear();
  for (StreamLine* stream_line : blocked) {
    stream_line->resume();
  }
  resolved_.notify_all();
}

void TimeLines::settle(bool is_end) {
  const std::lock_guard lock(mutex_);
  const int64_t until_ns = is_end ? std::numeric_limits<int64_t>::max() : now_ns();
  for (auto& [key, stream_line] : lines_) {
    stream_line.settle(until_ns);
  }
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

int64_t TimeLines::wait_until_reached(const MarkerPtr& marker) {
  const WithoutPython others_run;
  std::unique_lock lock(mutex_);
  check_outside(*marker);
  while (!marker->time_ns || *marker->time_ns > now_ns()) {
    if (marker->time_ns) {
      resolved_.wait_until(lock, clock_time(*marker->time_ns));
    } else {
      resolved_.wait(lock);
    }
  }
  return *marker->time_ns;
}

bool TimeLines::is_reached(const MarkerPtr& marker) {
  const std::lock_guard lock(mutex_);
  check_outside(*marker);
  return marker->time_ns && *marker->time_ns <= polled_now_ns();
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
