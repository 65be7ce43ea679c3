#include "clock.h"

#include <sys/auxv.h>

#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

namespace testbed {

namespace {

constexpr int64_t NS_PER_S = 1'000'000'000;
constexpr int64_t MOST_APART_NS = NS_PER_S;
constexpr uint64_t PAGE = 4096;

// What the kernel of a guest in virtual time shows each process (struct time_travel_clock): a page
// below the vDSO. The time in it is right until the process next enters the kernel.
struct ClockPage {
  volatile uint64_t entries;
  volatile uint64_t monotonic_ns;
  volatile uint64_t realtime_ns;  // ahead of virtual time by this process's own reads of the clock
  volatile uint64_t reads;
  volatile uint64_t left;
  volatile uint64_t now_ns;  // virtual time; 0 in kernels that do not tell it
};

// Return the page [vvar] right below the vDSO; null if what lies there has another size.
const ClockPage* page_below_vdso() {
  const uint64_t vdso = getauxval(AT_SYSINFO_EHDR);
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    uint64_t begin = 0;
    uint64_t end = 0;
    char dash = 0;
    std::istringstream words(line);
    words >> std::hex >> begin >> dash >> end;
    if (line.find("[vvar]") != std::string::npos && end == vdso && end - begin == PAGE) {
      return reinterpret_cast<const ClockPage*>(begin);
    }
  }
  return nullptr;
}

const ClockPage* clock_page() {
  const ClockPage* page = page_below_vdso();
  if (page == nullptr) {
    return nullptr;
  }
  const int64_t apart_ns = polled_now_ns() - static_cast<int64_t>(page->now_ns);
  return std::abs(apart_ns) < MOST_APART_NS ? page : nullptr;
}

}  // namespace

int64_t now_ns() {
  static const ClockPage* page = clock_page();
  return page != nullptr ? static_cast<int64_t>(page->now_ns) : polled_now_ns();
}

int64_t polled_now_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * NS_PER_S + now.tv_nsec;
}

}  // namespace testbed
