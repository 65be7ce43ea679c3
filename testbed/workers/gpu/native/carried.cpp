#include "carried.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>

#include "values.h"

namespace testbed {

namespace {

constexpr const char* FOLDER = "TESTBED_GPU_VALUES";
constexpr size_t KEPT_FILES = 4096;  // of this rank: older ones have been read

struct Prefix : c10d::PrefixStore {
  static std::string of(const c10d::PrefixStore& store) { return store.*(&Prefix::prefix_); }
};

// What precedes a tensor in a file.
struct Head {
  int64_t type;
  int64_t dimensions;
};

void write_file(const std::string& path, const Tensors& tensors) {
  const std::string unfinished = path + ".new";
  FILE* file = fopen(unfinished.c_str(), "wb");
  if (file == nullptr) {
    return;
  }
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor values = tensor.contiguous();
    const Head head{static_cast<int64_t>(values.scalar_type()), values.dim()};
    fwrite(&head, sizeof head, 1, file);
    fwrite(values.sizes().data(), sizeof(int64_t), values.sizes().size(), file);
    fwrite(values.data_ptr(), 1, values.nbytes(), file);
  }
  fclose(file);
  rename(unfinished.c_str(), path.c_str());

  static std::mutex mutex;
  static auto* written = new std::deque<std::string>;
  const std::lock_guard lock(mutex);
  written->push_back(path);
  if (written->size() > KEPT_FILES) {
    remove(written->front().c_str());
    written->pop_front();
  }
}

Tensors read_file(const std::string& path) {
  Tensors tensors;
  FILE* file = fopen(path.c_str(), "rb");
  if (file == nullptr) {
    return tensors;
  }
  Head head{};
  while (fread(&head, sizeof head, 1, file) == 1) {
    std::vector<int64_t> sizes(static_cast<size_t>(head.dimensions));
    const size_t known = fread(sizes.data(), sizeof(int64_t), sizes.size(), file);
    auto tensor = at::empty(sizes, at::TensorOptions().dtype(static_cast<at::ScalarType>(head.type)));
    const size_t bytes = fread(tensor.data_ptr(), 1, tensor.nbytes(), file);
    TORCH_CHECK(known == sizes.size() && bytes == tensor.nbytes(), "testbed: ", path, " is not whole");
    tensors.push_back(tensor);
  }
  fclose(file);
  return tensors;
}

Tensors all_known(const Tensors& tensors) {
  Tensors all;
  for (const at::Tensor& tensor : tensors) {
    at::Tensor values;
    if (const ValuesPtr place = values_of(tensor); place != nullptr && is_known(tensor, place)) {
      values = values_in(tensor, place);
    }
    if (!values.defined()) {
      return {};
    }
    all.push_back(values);
  }
  return all;
}

bool can_all_have_values(const Tensors& tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (!can_have_values(tensor)) {
      return false;
    }
  }
  return !tensors.empty();
}

void take(const Tensors& outputs, const Tensors& values) {
  for (size_t place = 0; place < outputs.size(); ++place) {
    const ValuesPtr kept = values_of(outputs[place]);
    if (place < values.size() && values[place].defined() && values[place].numel() == outputs[place].numel()) {
      write_values(outputs[place], kept, values[place].view(outputs[place].sizes()));
    } else {
      make_unknown(outputs[place], kept);
    }
  }
}

}  // namespace

bool are_carried(const Tensors& tensors) {
  for (const at::Tensor& tensor : tensors) {
    if (!can_have_values(tensor) || !may_be_known(tensor)) {
      return false;
    }
  }
  return !tensors.empty();
}

std::string unique_name(const c10::intrusive_ptr<c10d::Store>& store) {
  const char* folder = getenv(FOLDER);
  if (folder == nullptr) {
    return "";
  }
  std::string name;
  c10::intrusive_ptr<c10d::Store> inner = store;
  while (auto* prefix = dynamic_cast<c10d::PrefixStore*>(inner.get())) {
    name = Prefix::of(*prefix) + "/" + name;
    inner = prefix->getUnderlyingStore();
  }
  if (auto* server = dynamic_cast<c10d::TCPStore*>(inner.get())) {
    name = server->getHost() + ":" + std::to_string(server->getPort()) + "/" + name;
  }
  char text[32];
  snprintf(text, sizeof text, "%016zx", std::hash<std::string>()(name));
  return std::string(folder) + "/" + text;
}

Carried::Carried(std::string key, int rank, const Tensors& inputs, const Tensors& outputs, std::vector<int> senders,
                 Combine combine)
    : key_(std::move(key)),
      senders_(std::move(senders)),
      contributions_(std::make_shared<Contributions>()),
      has_ended_(std::make_shared<std::atomic<bool>>(false)) {
  if (are_carried(inputs)) {
    const std::string file = file_of(rank);
    change_values(inputs, [inputs, file] {
      const Tensors values = all_known(inputs);
      if (!values.empty()) {
        write_file(file, values);
      }
    });
  }
  if (senders_.empty() || !can_all_have_values(outputs)) {
    senders_.clear();
    for (const at::Tensor& output : outputs) {
      forget_values(output);
    }
    return;
  }
  {
    const std::lock_guard lock(values_mutex());
    for (const at::Tensor& output : outputs) {
      ensure_values(output);
    }
  }
  change_values(
      outputs,
      [outputs, all = contributions_, combine = std::move(combine)] {
        bool is_whole = true;
        for (const Tensors& one : *all) {
          is_whole &= !one.empty();
        }
        take(outputs, is_whole ? combine(*all) : Tensors());
      },
      [ended = has_ended_] { return ended->load(); });
}

void Carried::before() const { settle_values(); }

void Carried::after() {
  if (senders_.empty()) {
    return;
  }
  for (const int sender : senders_) {
    contributions_->push_back(read_file(file_of(sender)));
  }
  has_ended_->store(true);
  settle_values();
}

}  // namespace testbed
