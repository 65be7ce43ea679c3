#include "stand_in_payload.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

namespace testbed {

namespace {

constexpr size_t BUFFER = 4 << 20;

std::mutex mutex;
char* mapping = nullptr;
size_t mapped_bytes = 0;

void check(bool is_good, const char* call) {
  TORCH_CHECK(is_good, "testbed: no memory for payloads: ", call, ": ", strerror(errno));
}

// Map the buffer so often that `bytes` fit. Operations in progress keep the mapping before.
void map_at_least(size_t bytes) {
  static const int file = [] {
    const int made = memfd_create("testbed-payload", MFD_CLOEXEC);
    check(made >= 0 && ftruncate(made, BUFFER) == 0, "memfd_create");
    return made;
  }();
  const size_t whole = (std::max(bytes, 2 * mapped_bytes) + BUFFER - 1) / BUFFER * BUFFER;
  void* reserved = mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(reserved != MAP_FAILED, "mmap");
  for (size_t offset = 0; offset < whole; offset += BUFFER) {
    void* place = static_cast<char*>(reserved) + offset;
    void* made = mmap(place, BUFFER, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    check(made != MAP_FAILED, "mmap");
  }
  mapping = static_cast<char*>(reserved);
  mapped_bytes = whole;
}

}  // namespace

at::Tensor payload_tensor(int64_t elements, at::ScalarType type) {
  const std::lock_guard lock(mutex);
  const size_t bytes = static_cast<size_t>(elements) * c10::elementSize(type);
  if (mapping == nullptr || bytes > mapped_bytes) {
    map_at_least(bytes);
  }
  return at::from_blob(mapping, {elements}, at::TensorOptions().dtype(type).device(at::kCPU));
}

}  // namespace testbed
