// Streams as time lines: the time at which each stream has finished its work, on the run's clock.
//
// Work that is put on a stream has a known duration, so the stream's end is known as well, except
// after it waits for a collective: the end of a collective is known once the collective has ended.
// Until then the stream keeps the work that follows in a queue.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace testbed {

int64_t now_ns();               // the run's clock, in Unix ns
void sleep_until(int64_t ns);   // until the run's clock shows `ns`

class StreamLine;

// A point of a stream: an event, or the end of a collective.
struct Marker {
  std::optional<int64_t> time_ns;
  std::vector<StreamLine*> blocked;  // streams whose next work waits for this marker
};
using MarkerPtr = std::shared_ptr<Marker>;

// The work of a stream in its order. Calls need the lock of `TimeLines`.
class StreamLine {
 public:
  void run(int64_t begin_ns, int64_t duration_ns);
  MarkerPtr record(int64_t now);
  void wait_for(const MarkerPtr& marker);
  void resume();
  bool is_resolved() const { return queue_.empty(); }
  int64_t end_ns() const { return end_ns_; }
  size_t launched_and_unfinished(int64_t now);

 private:
  struct Item {
    enum class Kind { kernel, record, wait } kind;
    int64_t begin_ns;
    int64_t duration_ns;
    MarkerPtr marker;
  };
  void carry_out(const Item& item);

  int64_t end_ns_ = 0;
  std::deque<Item> queue_;
  std::deque<int64_t> kernel_ends_ns_;  // of kernels that may still be running
};

// All streams of this process, by device and stream number.
class TimeLines {
 public:
  static TimeLines& all();

  void run_kernel(int device, int64_t stream, int64_t duration_ns);
  MarkerPtr record(int device, int64_t stream);
  void block(int device, int64_t stream, const MarkerPtr& marker);
  void complete(const MarkerPtr& marker, int64_t time_ns);

  int64_t resolved_time(const MarkerPtr& marker);  // waits until the time is known
  void wait_until_reached(const MarkerPtr& marker);
  bool is_reached(const MarkerPtr& marker);
  void synchronize(int device, int64_t stream);
  void synchronize(int device);
  int64_t busy_ns(int device);  // sum of the durations of all kernels
  int64_t kernels(int device);

 private:
  StreamLine& line(int device, int64_t stream) { return lines_[{device, stream}]; }

  std::mutex mutex_;
  std::condition_variable resolved_;
  std::map<std::pair<int, int64_t>, StreamLine> lines_;
  std::map<int, int64_t> busy_ns_;
  std::map<int, int64_t> kernels_;
};

}  // namespace testbed
