#include "timeline.h"

#include <algorithm>

#include <ctime>

namespace testbed {

namespace {
constexpr int64_t NS_PER_S = 1'000'000'000;
// CUDA lets the CPU put about a thousand kernels on a stream before a launch waits.
constexpr size_t LONGEST_QUEUE = 1024;
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

void StreamLine::run(int64_t begin_ns, int64_t duration_ns) {
  const Item item{Item::Kind::kernel, begin_ns, duration_ns, nullptr};
  if (queue_.empty()) {
    carry_out(item);
  } else {
    queue_.push_back(item);
  }
}

MarkerPtr StreamLine::record(int64_t now) {
  auto marker = std::make_shared<Marker>();
  const Item item{Item::Kind::record, now, 0, marker};
  if (queue_.empty()) {
    carry_out(item);
  } else {
    queue_.push_back(item);
  }
  return marker;
}

void StreamLine::wait_for(const MarkerPtr& marker) {
  const Item item{Item::Kind::wait, 0, 0, marker};
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
    carry_out(item);
  }
}

void StreamLine::carry_out(const Item& item) {
  switch (item.kind) {
    case Item::Kind::kernel:
      end_ns_ = std::max(end_ns_, item.begin_ns) + item.duration_ns;
      kernel_ends_ns_.push_back(end_ns_);
      return;
    case Item::Kind::wait:
      end_ns_ = std::max(end_ns_, *item.marker->time_ns);
      return;
    case Item::Kind::record:
      item.marker->time_ns = std::max(end_ns_, item.begin_ns);
      auto blocked = std::move(item.marker->blocked);
      item.marker->blocked.clear();
      for (StreamLine* other : blocked) {
        other->resume();
      }
  }
}

size_t StreamLine::launched_and_unfinished(int64_t now) {
  while (!kernel_ends_ns_.empty() && kernel_ends_ns_.front() <= now) {
    kernel_ends_ns_.pop_front();
  }
  return kernel_ends_ns_.size() + queue_.size();
}

TimeLines& TimeLines::all() {
  static auto* lines = new TimeLines;  // threads may use it until the process ends
  return *lines;
}

void TimeLines::run_kernel(int device, int64_t stream, int64_t duration_ns) {
  MarkerPtr half_empty;
  {
    const std::lock_guard lock(mutex_);
    const int64_t now = now_ns();
    StreamLine& stream_line = line(device, stream);
    stream_line.run(now, duration_ns);
    busy_ns_[device] += duration_ns;
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
  return line(device, stream).record(now_ns());
}

void TimeLines::block(int device, int64_t stream, const MarkerPtr& marker) {
  const std::lock_guard lock(mutex_);
  line(device, stream).wait_for(marker);
}

void TimeLines::complete(const MarkerPtr& marker, int64_t time_ns) {
  const std::lock_guard lock(mutex_);
  marker->time_ns = time_ns;
  auto blocked = std::move(marker->blocked);
  marker->blocked.clear();
  for (StreamLine* stream_line : blocked) {
    stream_line->resume();
  }
  resolved_.notify_all();
}

int64_t TimeLines::resolved_time(const MarkerPtr& marker) {
  std::unique_lock lock(mutex_);
  resolved_.wait(lock, [&] { return marker->time_ns.has_value(); });
  return *marker->time_ns;
}

void TimeLines::wait_until_reached(const MarkerPtr& marker) {
  const int64_t time_ns = resolved_time(marker);
  if (time_ns > now_ns()) {
    sleep_until(time_ns);
  }
}

bool TimeLines::is_reached(const MarkerPtr& marker) {
  const std::lock_guard lock(mutex_);
  return marker->time_ns && *marker->time_ns <= now_ns();
}

void TimeLines::synchronize(int device, int64_t stream) {
  wait_until_reached(record(device, stream));
}

void TimeLines::synchronize(int device) {
  std::vector<MarkerPtr> ends;
  {
    const std::lock_guard lock(mutex_);
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
