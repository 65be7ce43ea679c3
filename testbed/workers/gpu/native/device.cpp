#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <cstring>

#include "memory.h"
#include "timeline.h"

namespace testbed {

namespace {

constexpr int STREAMS_OF_THE_POOL = 32;  // as in torch

Accelerator modelled;
thread_local int device_of_thread = 0;
thread_local int64_t streams_of_thread[MOST_DEVICES] = {};
std::atomic<int64_t> streams_taken{0};

int index_of(c10::Device device) { return device.index() < 0 ? device_of_thread : device.index(); }

c10::Stream stream_of(int device, int64_t number) {
  const c10::Device place(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
  return c10::Stream(c10::Stream::UNSAFE, place, number);
}

void change_device(int device) {
  TORCH_CHECK(device >= 0 && device < modelled.devices, "CUDA error: invalid device ordinal ", device, ": this host has ",
              modelled.devices, " modelled GPUs (--gpus-per-host)");
  device_of_thread = device;
}

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  static constexpr c10::DeviceType static_type = c10::kCUDA;
  Guard() = default;
  explicit Guard(c10::DeviceType) {}
  c10::DeviceType type() const override { return static_type; }

  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    change_device(index_of(device));
    return before;
  }
  c10::Device getDevice() const override {
    return {static_type, static_cast<c10::DeviceIndex>(device_of_thread)};
  }
  void setDevice(c10::Device device) const override { change_device(index_of(device)); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    device_of_thread = index_of(device);
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(modelled.devices);
  }

  c10::Stream getStream(c10::Device device) const override {
    return stream_of(index_of(device), streams_of_thread[index_of(device)]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return stream_of(index_of(device), 0);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return stream_of(index_of(device), 1 + streams_taken++ % STREAMS_OF_THE_POOL);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    int64_t& current = streams_of_thread[index_of(stream.device())];
    const c10::Stream before = stream_of(index_of(stream.device()), current);
    current = stream.id();
    return before;
  }
  void* getStreamNativeHandle(const c10::Stream stream) const override {
    return reinterpret_cast<void*>(stream.id());
  }
  bool queryStream(const c10::Stream& stream) const override {
    auto& lines = TimeLines::all();
    return lines.is_reached(lines.record(index_of(stream.device()), stream.id()));
  }
  void synchronizeStream(const c10::Stream& stream) const override {
    TimeLines::all().synchronize(index_of(stream.device()), stream.id());
  }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    TimeLines::all().synchronize(device < 0 ? device_of_thread : device);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    if (*event == nullptr) {
      *event = new MarkerPtr;
    }
    marker(*event) = TimeLines::all().record(index_of(stream.device()), stream.id());
  }
  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) {
      TimeLines::all().block(index_of(stream.device()), stream.id(), marker(event));
    }
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || TimeLines::all().is_reached(marker(event));
  }
  void synchronizeEvent(void* event) const override {
    if (event != nullptr) {
      TimeLines::all().wait_until_reached(marker(event));
    }
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<MarkerPtr*>(event);
  }
  double elapsedTime(void* first, void* second, const c10::DeviceIndex) const override {
    TORCH_CHECK(first != nullptr && second != nullptr, "Both events must be recorded before calculating elapsed time.");
    auto& lines = TimeLines::all();
    const int64_t ns = lines.wait_until_reached(marker(second)) - lines.wait_until_reached(marker(first));
    return static_cast<double>(ns) / 1e6;
  }

 private:
  static MarkerPtr& marker(void* event) { return *static_cast<MarkerPtr*>(event); }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

// A generator of random numbers for tensors without values: it only keeps its state.
class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(c10::Device device)
      : GeneratorImpl(device, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override {
    seed_ = seed;
    offset_ = 0;
  }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override {
    set_current_seed(at::detail::getDefaultCPUGenerator().current_seed());
    return seed_;
  }
  void set_offset(uint64_t offset) override { offset_ = offset; }
  uint64_t get_offset() const override { return offset_; }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    at::Tensor state = at::empty({STATE_BYTES}, at::TensorOptions().dtype(at::kByte).device(at::kCPU));
    auto* data = state.mutable_data_ptr<uint8_t>();
    memcpy(data, &seed_, sizeof seed_);
    memcpy(data + sizeof seed_, &offset_, sizeof offset_);
    return state.getIntrusivePtr();
  }
  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(state.numel() == STATE_BYTES, "RNG state is wrong size");
    const auto* data = static_cast<const uint8_t*>(state.data());
    memcpy(&seed_, data, sizeof seed_);
    memcpy(&offset_, data + sizeof seed_, sizeof offset_);
  }
  void graphsafe_set_state(const c10::intrusive_ptr<GeneratorImpl>& other) override {
    seed_ = other->current_seed();
    offset_ = other->get_offset();
  }
  c10::intrusive_ptr<GeneratorImpl> graphsafe_get_state() const override { return clone(); }

 private:
  static constexpr int64_t STATE_BYTES = 16;

  Generator* clone_impl() const override {
    auto* copy = new Generator(device());
    copy->seed_ = seed_;
    copy->offset_ = offset_;
    return copy;
  }

  uint64_t seed_ = c10::default_rng_seed_val;
  uint64_t offset_ = 0;
};

}  // namespace

const Accelerator& accelerator() { return modelled; }
int current_device() { return device_of_thread; }
int64_t current_stream(int device) { return streams_of_thread[device]; }

// Answers to torch's questions about CUDA; torch asks for these hooks once, when it is imported.
struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return modelled.devices > 0; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override {
    return static_cast<at::DeviceIndex>(modelled.devices);
  }
  int getNumGPUs() const override { return modelled.devices; }
  at::DeviceIndex current_device() const override { return getCurrentDevice(); }
  at::DeviceIndex getCurrentDevice() const override {
    return static_cast<at::DeviceIndex>(device_of_thread);
  }
  void setCurrentDevice(at::DeviceIndex device) const override { change_device(device); }
  at::DeviceIndex exchangeDevice(at::DeviceIndex device) const override {
    const auto before = getCurrentDevice();
    change_device(device);
    return before;
  }
  at::DeviceIndex maybeExchangeDevice(at::DeviceIndex device) const override {
    return device < 0 ? getCurrentDevice() : exchangeDevice(device);
  }
  void deviceSynchronize(at::DeviceIndex device) const override {
    TimeLines::all().synchronize(device);
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  at::Allocator* getCUDADeviceAllocator() const override { return device_allocator(); }
  at::Generator getNewGenerator(at::DeviceIndex device) const override {
    const int index = device < 0 ? device_of_thread : device;
    return at::Generator(c10::make_intrusive<Generator>(
        c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index))));
  }
  const at::Generator& getDefaultGenerator(at::DeviceIndex device) const override {
    static auto* generators = new std::vector<at::Generator>;
    while (generators->size() < MOST_DEVICES) {
      generators->push_back(getNewGenerator(static_cast<at::DeviceIndex>(generators->size())));
    }
    return (*generators)[device < 0 ? device_of_thread : device];
  }
};

}  // namespace testbed

namespace at {
using CUDAHooks = testbed::Hooks;  // the name by which torch looks for them
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

extern "C" {

// Set the figures of the devices, before torch is imported.
void testbed_configure(const char* name, int devices, int64_t memory_bytes, int64_t usable_bytes,
                       double bytes_per_ns, const double* flops_per_ns, double attention_share,
                       double host_bytes_per_ns, double least_kernel_ns, int multiprocessors) {
  auto& gpu = testbed::modelled;
  gpu.name = name;
  gpu.devices = devices;
  gpu.memory_bytes = memory_bytes;
  gpu.usable_bytes = usable_bytes;
  gpu.bytes_per_ns = bytes_per_ns;
  for (int format = 0; format < static_cast<int>(testbed::Format::count); ++format) {
    gpu.flops_per_ns[format] = flops_per_ns[format];
  }
  gpu.attention_share = attention_share;
  gpu.host_bytes_per_ns = host_bytes_per_ns;
  gpu.least_kernel_ns = least_kernel_ns;
  gpu.multiprocessors = multiprocessors;
}

int testbed_device() { return testbed::device_of_thread; }

int testbed_set_device(int device) {
  if (device < 0 || device >= testbed::modelled.devices) {
    return -1;
  }
  testbed::device_of_thread = device;
  return 0;
}

int64_t testbed_stream(int device) { return testbed::streams_of_thread[device]; }

void testbed_set_stream(int device, int64_t stream) {
  testbed::device_of_thread = device;
  testbed::streams_of_thread[device] = stream;
}

// Return the ms between two events; a number below 0 is an error of CUDA.
double testbed_elapsed_ms(void* first, void* second) {
  try {
    return testbed::Guard().elapsedTime(first, second, 0);
  } catch (const c10::AcceleratorError& error) {
    return -error.get_error_code();
  }
}

// Wait for a device; return an error of CUDA or 0.
int testbed_synchronize(int device) {
  try {
    testbed::TimeLines::all().synchronize(device);
  } catch (const c10::AcceleratorError& error) {
    return error.get_error_code();
  }
  return 0;
}

int64_t testbed_busy_ns(int device) { return testbed::TimeLines::all().busy_ns(device); }

int64_t testbed_kernels(int device) { return testbed::TimeLines::all().kernels(device); }

// Write the statistics of a device in the order of `Quantity`, `Kind` and `Statistic`, then counts.
void testbed_memory(int device, int64_t* figures) {
  const testbed::MemoryStatistics statistics = testbed::memory_statistics(device);
  for (const auto& kinds : statistics.of) {
    for (const testbed::Statistic& one : kinds) {
      for (const int64_t value : {one.current, one.peak, one.allocated, one.freed}) {
        *figures++ = value;
      }
    }
  }
  for (const int64_t value :
       {statistics.retries, statistics.out_of_memory_errors, statistics.driver_allocations,
        statistics.driver_frees, statistics.highest_allocated, statistics.highest_reserved}) {
    *figures++ = value;
  }
}

void testbed_reset_peaks(int device) { testbed::reset_peaks(device); }

void testbed_reset_sums(int device) { testbed::reset_sums(device); }

void testbed_release_unused(int device) { testbed::release_unused(device); }

void testbed_limit_memory(int device, double fraction) { testbed::limit_memory(device, fraction); }

}  // extern "C"
