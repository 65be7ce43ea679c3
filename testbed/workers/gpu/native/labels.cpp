#include "labels.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <unordered_map>

namespace testbed {

namespace {

constexpr size_t MOST_BEGINS = 100'000;

// From this number on, a thread's nodes of the autograd graph belong to the part.
struct Begin {
  uint64_t sequence;
  int part;
};

thread_local int part_of_thread = NO_PART;
std::mutex mutex;
std::unordered_map<uint64_t, std::deque<Begin>> begins;  // by thread of the forward pass

// Return the part whose forward pass has made a node of the graph.
int part_of(const torch::autograd::Node& node) {
  const std::lock_guard lock(mutex);
  const auto found = begins.find(node.thread_id());
  if (found == begins.end()) {
    return NO_PART;
  }
  const auto after = std::upper_bound(found->second.begin(), found->second.end(), node.sequence_nr(),
                                      [](uint64_t number, const Begin& begin) { return number < begin.sequence; });
  return after == found->second.begin() ? NO_PART : std::prev(after)->part;
}

void enter_part(int part) {
  part_of_thread = part;
  if (is_in_backward()) {
    return;
  }
  const std::lock_guard lock(mutex);
  auto& of_thread = begins[at::RecordFunction::currentThreadId()];
  const uint64_t sequence = at::sequence_number::peek();
  if (!of_thread.empty() && of_thread.back().sequence == sequence) {
    of_thread.back().part = part;
  } else {
    of_thread.push_back({sequence, part});
  }
  if (of_thread.size() > MOST_BEGINS) {
    of_thread.pop_front();
  }
}

}  // namespace

bool is_in_backward() { return torch::autograd::get_current_graph_task_id() >= 0; }

bool recomputes() { return at::GradMode::is_enabled() && is_in_backward(); }

int label_of_work() {
  int part = part_of_thread;
  auto phase = part == NO_PART ? Phase::other : Phase::forward;
  if (is_in_backward()) {
    phase = recomputes() ? Phase::recomputation : Phase::backward;
    const auto node = torch::autograd::get_current_node();
    if (phase == Phase::backward) {
      part = node ? part_of(*node) : NO_PART;
    }
  }
  return (part + 1) * PHASES + static_cast<int>(phase);
}

}  // namespace testbed

extern "C" void testbed_enter_part(int part) { testbed::enter_part(part); }
