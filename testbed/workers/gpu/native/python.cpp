// The Python module with torch.distributed's backend "nccl".
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/chrono.h>

#include "backend.h"

namespace {

using testbed::NcclBackend;
using testbed::NcclOptions;
using testbed::NcclWork;

template <typename T>
using Pointer = c10::intrusive_ptr<T>;

void set_network(const std::string& address, int channels, int64_t buffer_bytes, int sockets,
                 double local_bytes_per_ns) {
  testbed::Network network;
  network.address = address;
  network.protocol.channels = channels;
  network.protocol.buffer = buffer_bytes;
  network.sockets = sockets;
  network.local_bytes_per_ns = local_bytes_per_ns;
  testbed::set_network(network);
}

// What NCCL itself is told, such as its numbers of blocks: kept, without effect.
struct NcclConfig {};

std::shared_ptr<torch::jit::PythonFutureWrapper> ended(const NcclWork& work) {
  return std::make_shared<torch::jit::PythonFutureWrapper>(work.ended());
}

}  // namespace

PYBIND11_MODULE(testbed_nccl, module) {
  py::module_::import("torch._C._distributed_c10d");
  const py::call_guard<py::gil_scoped_release> without_gil;

  py::class_<NcclConfig, std::shared_ptr<NcclConfig>>(module, "Config", py::dynamic_attr());
  py::class_<NcclOptions, Pointer<NcclOptions>, c10d::Backend::Options> options(module, "Options", py::dynamic_attr());
  options.def(py::init<bool>(), py::arg("is_high_priority_stream") = false)
      .def_readwrite("is_high_priority_stream", &NcclOptions::is_high_priority_stream)
      .def_readwrite("split_color", &NcclOptions::split_color)
      .def_property_readonly("config", [](const py::object& self) {
        if (!py::hasattr(self, "_config")) {
          self.attr("_config") = std::make_shared<NcclConfig>();
        }
        return self.attr("_config");
      });

  py::class_<NcclBackend, Pointer<NcclBackend>, c10d::Backend> backend(module, "ProcessGroupNCCL", py::dynamic_attr());
  backend
      .def(py::init([](const Pointer<c10d::Store>& store, int rank, int size, const Pointer<NcclOptions>& options) {
             return c10::make_intrusive<NcclBackend>(store, rank, size, options);
           }),
           without_gil)
      .def("_is_initialized", [](const NcclBackend&) { return true; })
      .def("_set_default_timeout", &NcclBackend::setTimeout, py::arg("timeout"))
      .def("_add_ephemeral_timeout", [](const NcclBackend&, std::chrono::milliseconds) {})
      .def("_verify_work_timeout", [](NcclBackend& self, const py::object&, std::chrono::milliseconds timeout) {
        return self.getBackendOptions()->timeout == timeout;
      })
      .def("_set_enable_nan_check", [](const NcclBackend&, bool) {})
      .def("register_mem_pool", [](const NcclBackend&, const py::args&, const py::kwargs&) {})
      .def("deregister_mem_pool", [](const NcclBackend&, const py::args&) {})
      .def("perform_nocolor_split", [](const NcclBackend&, const py::object&) {})
      .def("_group_start", [](const NcclBackend&) {})
      .def("_group_end", [](const NcclBackend&) {})
      .def("comm_split_count", [](const NcclBackend&) { return 0; })
      .def_property_readonly("options", [](NcclBackend& self) {
        return c10::static_intrusive_pointer_cast<NcclOptions>(self.getBackendOptions());
      });
  backend.attr("Options") = options;

  py::class_<NcclWork, Pointer<NcclWork>, c10d::Work>(module, "NcclWork")
      .def("ended", &ended)
      .def("set_label", &NcclWork::set_label);

  module.def("set_network", &set_network);
  module.def("drain", &testbed::drain_all, without_gil);
}
