#include "steps.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <deque>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

#include "device.h"
#include "graphs.h"
#include "labels.h"
#include "memory.h"
#include "timeline.h"

namespace testbed {

namespace {

struct Step {
  int device;
  Counts counts;
  int64_t peak_bytes;
  StepMarkPtr mark;
};

std::mutex mutex;
double all_products = 0;
Counts counts;
std::deque<Step> steps;  // not yet taken

void write_step(std::ostream& out, const Step& step) {
  const StreamUse& use = step.mark->use;
  out << "step " << step.device << ' ' << *step.mark->end_ns << ' ' << use.busy_ns << ' ' << use.launch_ns << ' '
      << use.streams_ns << ' ' << step.counts.flops << ' ' << step.counts.recomputed << ' '
      << step.counts.flops - step.counts.before_optimizer << ' ' << step.peak_bytes << ' ';
  std::map<int, int64_t> by_label;
  for (const auto& [cause, ns] : use.delays) {
    by_label[cause->label] += ns;
  }
  out << by_label.size();
  for (const auto& [label, ns] : by_label) {
    out << ' ' << label << ' ' << ns;
  }
  out << ' ' << step.counts.looked_up.size();
  for (const auto& [shape, indices] : step.counts.looked_up) {
    out << ' ' << indices;
  }
  out << '\n';
}

void write_span(std::ostream& out, const StreamSpan& span) {
  const bool waits = span.span.cause != nullptr;
  out << (waits ? "wait " : "work ") << span.device << ' ' << span.stream << ' ' << span.span.begin_ns << ' '
      << span.span.end_ns << ' ' << (waits ? span.span.cause->label.load() : span.span.label) << '\n';
}

void mark_step(int device) {
  auto& lines = TimeLines::all();
  const int64_t stream = current_stream(device);
  if (const auto graph = lines.graph_of(device, stream)) {
    graph->mark(stream, exchange_counts({}));
  } else {
    lines.mark(device, stream, new_step(device));
  }
}

std::string take_records(bool is_end) {
  std::ostringstream out;
  out.precision(17);
  TimeLines::all().settle(is_end);
  const std::lock_guard lock(mutex);
  while (!steps.empty() && TimeLines::all().is_known(*steps.front().mark)) {
    write_step(out, steps.front());
    steps.pop_front();
  }
  for (const StreamSpan& span : TimeLines::all().take_spans(is_end)) {
    write_span(out, span);
  }
  return out.str();
}

}  // namespace

Counts exchange_counts(Counts other) {
  const std::lock_guard lock(mutex);
  std::swap(other, counts);
  return other;
}

void add_counts(const Counts& more) {
  const std::lock_guard lock(mutex);
  if (more.optimizer_begins) {
    counts.optimizer_begins = true;
    counts.before_optimizer = counts.flops + more.before_optimizer;
  }
  all_products += more.flops;
  counts.flops += more.flops;
  counts.recomputed += more.recomputed;
  for (const auto& [shape, indices] : more.looked_up) {
    counts.looked_up[shape] += indices;
  }
}

StepMarkPtr new_step(int device) {
  Step step{device, {}, memory_statistics(device).highest_allocated, std::make_shared<StepMark>()};
  const std::lock_guard lock(mutex);
  std::swap(step.counts, counts);
  steps.push_back(std::move(step));
  return steps.back().mark;
}

void count_look_ups(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> arguments) {
  if (schema.name() != "aten::embedding" || !at::GradMode::is_enabled() || is_in_backward()) {
    return;
  }
  const at::Tensor& weight = arguments[0].toTensor();
  const at::Tensor& indices = arguments[1].toTensor();
  const std::lock_guard lock(mutex);
  counts.looked_up[{weight.size(0), weight.size(1)}] += indices.numel();
}

void count_products(double flops) {
  const bool again = recomputes();
  const std::lock_guard lock(mutex);
  all_products += flops;
  counts.flops += flops;
  counts.recomputed += again ? flops : 0;
}

}  // namespace testbed

extern "C" {

double testbed_products() {
  const std::lock_guard lock(testbed::mutex);
  return testbed::all_products;
}

// Note that an optimizer begins its step.
void testbed_begin_optimizer() {
  const std::lock_guard lock(testbed::mutex);
  testbed::counts.optimizer_begins = true;
  testbed::counts.before_optimizer = testbed::counts.flops;
}

// End a step of training on the current stream of a device.
void testbed_mark_step(int device) { testbed::mark_step(device); }

// Return what is known since the last call, a line for each step and stretch of a stream; the text
// is valid until the next call.
const char* testbed_take_records(int is_end) {
  static std::string text;
  text = testbed::take_records(is_end != 0);
  return text.c_str();
}

}  // extern "C"
