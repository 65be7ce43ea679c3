// The run's clock.
#pragma once

#include <cstdint>

namespace testbed {

// Return the present in Unix ns. In virtual time this costs nothing, however often it is called: the
// guest takes a thread that often reads its clock for one that waits, and lets time pass.
int64_t now_ns();

// Return the present, for code that may ask in a loop until some time has passed.
int64_t polled_now_ns();

}  // namespace testbed
