// The modelled devices of this process: their figures, and the current device and streams.
#pragma once

#include <cstdint>
#include <string>

namespace testbed {

constexpr int MOST_DEVICES = 16;

// The kinds of numbers whose products have different rates.
enum class Format { float64, float32, tf32, float16, float8, count };

// An accelerator; rates are those that kernels reach, in 1/ns.
struct Accelerator {
  std::string name = "GPU";
  int devices = 0;
  int64_t memory_bytes = 0;  // that the driver reports
  int64_t usable_bytes = 0;  // without the driver's part
  double bytes_per_ns = 1;   // of the memory
  double flops_per_ns[static_cast<int>(Format::count)] = {};
  double attention_share = 1;     // rate of fused attention, as a part of the rate of products
  double host_bytes_per_ns = 1;   // of copies from and to main memory
  double least_kernel_ns = 0;
  int multiprocessors = 1;
};

const Accelerator& accelerator();
int current_device();
int64_t current_stream(int device);

}  // namespace testbed
