// The Python module with torch.distributed's backend "nccl".
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/chrono.h>
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "backend.h"

namespace {

using testbed::NcclBackend;
using testbed::NcclOptions;
using testbed::NcclWork;

template <typename T>
using Pointer = c10::intrusive_ptr<T>;

// What the environment says of the network; nccl.py has the names.
struct NetworkSettings {
  std::string address;
  int channels = 2;
  int64_t buffer_bytes = 0;
  int sockets = 1;
  double local_bytes_per_ns = 1;
  int local_channels = 0;
  int64_t scale = 1;
  double card_gbytes = 1.25;
  int major = 9;
  std::vector<std::string> hosts;
  bool may_ring = true;
  bool may_tree = true;
  bool may_simple = true;
  bool may_ll = true;
};

testbed::Setting setting_of(const NetworkSettings& given) {
  testbed::Setting setting;
  setting.card_gbytes = given.card_gbytes;
  setting.major = given.major;
  setting.channels = given.channels;
  setting.may_ring = given.may_ring;
  setting.may_tree = given.may_tree;
  setting.may_simple = given.may_simple;
  setting.may_ll = given.may_ll;
  return setting;
}

void set_network(const NetworkSettings& given) {
  testbed::Network network;
  network.address = given.address;
  network.protocol.channels = given.channels;
  network.protocol.buffer = given.buffer_bytes;
  network.sockets = given.sockets;
  network.wire.local_bytes_per_ns = given.local_bytes_per_ns;
  network.local_channels = given.local_channels;
  network.wire.scale = given.scale;
  network.setting = setting_of(given);
  network.hosts = given.hosts;
  testbed::set_network(network);
}

// Return what an all-reduce uses: whether a tree, whether LL, channels; and the modelled times in us
// of rings with LL and simple, and of trees.
py::tuple choose_all_reduce(const NetworkSettings& given, int64_t bytes, int ranks, int hosts) {
  auto setting = setting_of(given);
  setting.ranks = ranks;
  setting.hosts = hosts;
  const auto algorithm = testbed::Algorithm::all_reduce;
  const auto choice = testbed::choose(algorithm, bytes, setting);
  py::list times;
  for (const bool is_tree : {false, true}) {
    for (const bool is_ll : {true, false}) {
      times.append(testbed::modelled_us(algorithm, bytes, is_tree, is_ll, setting));
    }
  }
  return py::make_tuple(choice.is_tree, choice.is_ll, choice.channels, times);
}

py::tuple place_in_tree(int rank, const std::vector<int>& host_of_rank, bool is_second) {
  const auto place = testbed::rank_in_tree(rank, host_of_rank, is_second);
  return py::make_tuple(place.parent, place.children);
}

// What NCCL itself is told, such as its numbers of blocks: kept, without effect.
struct NcclConfig {};

using PythonFuture = std::shared_ptr<torch::jit::PythonFutureWrapper>;

void on_replay(NcclWork& work, std::function<void(PythonFuture)> replayed) {
  work.on_replay([replayed = std::move(replayed)](const NcclWork::Future& future) {
    replayed(std::make_shared<torch::jit::PythonFutureWrapper>(future));
  });
}

PythonFuture ended(const NcclWork& work) {
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
      .def("use_gloo", &NcclBackend::use_gloo)
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
      .def("set_label", &NcclWork::set_label)
      .def("is_captured", &NcclWork::is_captured)
      .def("on_replay", &on_replay)
      .def("uses_gloo", &NcclWork::uses_gloo);

  py::class_<NetworkSettings>(module, "NetworkSettings")
      .def(py::init<>())
      .def_readwrite("address", &NetworkSettings::address)
      .def_readwrite("channels", &NetworkSettings::channels)
      .def_readwrite("buffer_bytes", &NetworkSettings::buffer_bytes)
      .def_readwrite("sockets", &NetworkSettings::sockets)
      .def_readwrite("local_bytes_per_ns", &NetworkSettings::local_bytes_per_ns)
      .def_readwrite("local_channels", &NetworkSettings::local_channels)
      .def_readwrite("scale", &NetworkSettings::scale)
      .def_readwrite("card_gbytes", &NetworkSettings::card_gbytes)
      .def_readwrite("major", &NetworkSettings::major)
      .def_readwrite("hosts", &NetworkSettings::hosts)
      .def_readwrite("may_ring", &NetworkSettings::may_ring)
      .def_readwrite("may_tree", &NetworkSettings::may_tree)
      .def_readwrite("may_simple", &NetworkSettings::may_simple)
      .def_readwrite("may_ll", &NetworkSettings::may_ll);
  module.def("set_network", &set_network);
  module.def("choose_all_reduce", &choose_all_reduce);
  module.def("place_in_tree", &place_in_tree);
  module.def("drain", &testbed::drain_all, without_gil);
}
