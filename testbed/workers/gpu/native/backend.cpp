#include "backend.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/StreamGuard.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>

#include <numeric>
#include <set>
#include <utility>

#include "device.h"
#include "combinations.h"
#include "stand_in_payload.h"

namespace testbed {

namespace {

Network network_of_process;
std::mutex communicators_mutex;
std::set<Communicator*> all_communicators;

int64_t bytes_of(const at::Tensor& tensor) { return tensor.numel() * tensor.itemsize(); }

int64_t bytes_of(const std::vector<at::Tensor>& tensors) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    bytes += bytes_of(tensor);
  }
  return bytes;
}

c10::Device device_at(int index) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

int device_of(const std::vector<at::Tensor>& tensors) {
  for (const at::Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.is_cuda(), "No backend type associated with device type ", tensor.device().type());
    return tensor.device().index();
  }
  return current_device();
}

using FuturePtr = c10::intrusive_ptr<c10::ivalue::Future>;

FuturePtr new_ended() {
  return c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::IntType::get()));
}

Ended completing(FuturePtr future) {
  return [future = std::move(future)](int64_t begin_ns, int64_t end_ns) {
    future->markCompleted(c10::IValue(std::vector<int64_t>{begin_ns, end_ns}));
  };
}

// The timer of DistributedDataParallel for devices: as its timer for CPUs.
class Timer final : public c10d::Timer {
 public:
  explicit Timer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event start, Event end) override {
    const auto first = getTimestamp(start);
    const auto last = getTimestamp(end);
    if (!first || !last) {
      return std::nullopt;
    }
    return *last - *first;
  }
};

}  // namespace

void set_network(const Network& network) { network_of_process = network; }

void drain_all() {
  const std::lock_guard lock(communicators_mutex);
  for (Communicator* communicator : all_communicators) {
    communicator->drain();
  }
}

NcclWork::NcclWork(int rank, c10d::OpType type, int device, std::vector<at::Tensor> outputs)
    : Work(rank, type), device_(device), outputs_(std::move(outputs)) {
  future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                     std::vector<c10::Device>{device_at(device)});
  ended_ = new_ended();
}

void NcclWork::attach(std::shared_ptr<Operation> operation, int64_t stream) {
  operation_ = std::move(operation);
  set_label(label_);
  const c10::StreamGuard guard(c10::Stream(c10::Stream::UNSAFE, device_at(device_), stream));
  future_->markCompleted(c10::IValue(outputs_));
}

Listeners NcclWork::listeners() const {
  auto replayed = [call = replayed_] {
    auto future = new_ended();
    if (*call) {
      (*call)(future);
    }
    return completing(future);
  };
  return {completing(ended_), replayed};
}

bool NcclWork::is_captured() const { return operation_ != nullptr && operation_->end->graph != 0; }

void NcclWork::set_label(int label) {
  label_ = label;
  if (operation_ != nullptr && label >= 0) {
    operation_->cause->label = label;
  }
}

bool NcclWork::isCompleted() { return operation_ != nullptr && TimeLines::all().is_reached(operation_->end); }

bool NcclWork::wait(std::chrono::milliseconds) {
  synchronize();
  if (stops_cpu_) {
    TimeLines::all().wait_until_reached(operation_->end);
  }
  return true;
}

void NcclWork::synchronize() {
  TORCH_CHECK(operation_ != nullptr, "the operation waits for the end of its group");
  TimeLines::all().block(device_, current_stream(device_), operation_->end);
}

NcclBackend::NcclBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                         c10::intrusive_ptr<NcclOptions> options)
    : Backend(rank, size), store_(std::move(store)), options_(std::move(options)), name_(unique_name(store_)) {}

std::vector<int> NcclBackend::all_ranks() const {
  std::vector<int> ranks(static_cast<size_t>(size_));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

void NcclBackend::carry(const Tensors& inputs, const Tensors& outputs, std::vector<int> senders, Combine combine) {
  const bool is_named = !name_.empty();  // outside of a run ranks exchange no values
  if (!is_named) {
    senders.clear();
  }
  const std::string key = name_ + "-" + std::to_string(carried_++);
  const Tensors contributed = is_named ? inputs : Tensors();
  next_carried_ = {std::make_shared<Carried>(key, rank_, contributed, outputs, std::move(senders), std::move(combine))};
}

std::vector<std::shared_ptr<Carried>> NcclBackend::take_carried() { return std::exchange(next_carried_, {}); }

void NcclBackend::carry_from_all(const Tensors& inputs, const Tensors& outputs, Combine combine) {
  // all ranks do alike: where this one knows no values, neither do others
  carry(inputs, outputs, are_carried(inputs) ? all_ranks() : std::vector<int>(), std::move(combine));
}

void NcclBackend::carry_from(int root, const Tensors& inputs, const Tensors& outputs, Combine combine) {
  const bool is_root = rank_ == root;
  carry(is_root ? inputs : Tensors(), outputs, {root}, std::move(combine));
}

void NcclBackend::carry_message(int source, int target, const Tensors& sent, const Tensors& received) {
  const int64_t number = messages_[{source, target}]++;
  const std::string key = name_ + "-" + std::to_string(source) + "-" + std::to_string(target) + "-" + std::to_string(number);
  const bool is_received = !received.empty() && !name_.empty();
  auto one = std::make_shared<Carried>(key, rank_, sent, received,
                                       is_received ? std::vector<int>{source} : std::vector<int>(),
                                       [](const Contributions& all) { return all[0]; });
  if (is_coalescing_) {
    pending_.carried.push_back(one);
  } else {
    next_carried_ = {one};
  }
}

void NcclBackend::setTimeout(std::chrono::milliseconds timeout) {
  options_->timeout = timeout;
  for (const auto& [name, one] : communicators_) {
    one->set_timeout(std::chrono::nanoseconds(timeout).count());
  }
}

void NcclBackend::shutdown() {
  for (const auto& [name, one] : communicators_) {
    const std::lock_guard lock(communicators_mutex);
    all_communicators.erase(one.get());
  }
  communicators_.clear();  // after their last operations
}

void NcclBackend::waitForPendingWorks() {
  for (const auto& [name, one] : communicators_) {
    one->drain();
  }
}

std::shared_ptr<Communicator> NcclBackend::communicator(const std::string& name, int rank, int ranks) {
  auto& found = communicators_[name];
  if (found == nullptr) {
    Network network = network_of_process;
    network.timeout_ns = std::chrono::nanoseconds(options_->timeout).count();
    found = std::make_shared<Communicator>(store_, name, rank, ranks, current_device(), network,
                                           options_->global_ranks_in_group);
    const std::lock_guard lock(communicators_mutex);
    all_communicators.insert(found.get());
  }
  return found;
}

c10::intrusive_ptr<NcclWork> NcclBackend::new_work(c10d::OpType type, Tensors outputs) {
  sequence_ += 1;
  return c10::make_intrusive<NcclWork>(rank_, type, current_device(), std::move(outputs));
}

int64_t NcclBackend::on_the_wire(int64_t elements) const {
  const int64_t scale = network_of_process.wire.scale;
  return (elements + scale - 1) / scale;
}

at::Tensor NcclBackend::payload(const at::Tensor& tensor) const {
  return payload_tensor(on_the_wire(tensor.numel()), tensor.scalar_type());
}

NcclBackend::Tensors NcclBackend::payloads(const Tensors& tensors) const {
  Tensors all;
  for (const at::Tensor& tensor : tensors) {
    all.push_back(payload(tensor));
  }
  return all;
}

// As with NCCL, operations run one after another on a stream when the devices reach them.
NcclBackend::WorkPtr NcclBackend::with_gloo(c10d::OpType type, Tensors outputs, Calls calls, const std::string& name) {
  const c10::DeviceGuard guard(device_at(device_of(outputs)));
  auto group = communicator(name, rank_, size_);
  group->carry(take_carried());
  auto work = new_work(type, std::move(outputs));
  work->note_gloo();
  auto run = [calls = std::move(calls)](std::chrono::milliseconds timeout) {
    const at::NoGradGuard without_grad;
    std::vector<WorkPtr> works;
    for (const Call& call : calls) {
      works.push_back(call());
    }
    for (const WorkPtr& one : works) {
      one->wait(timeout);
    }
  };
  const std::string text = c10d::opTypeToString(type) + " with gloo";
  work->attach(group->run_call(std::move(run), text, work->listeners()), group->stream());
  last_work_ = work;
  return work;
}

NcclBackend::Call NcclBackend::gather_call(const at::Tensor& input) {
  return [this, elements = on_the_wire(input.numel()), type = input.scalar_type()] {
    auto received = payload_tensor(size_ * elements, type);
    auto sent = payload_tensor(elements, type);
    return gloo_->_allgather_base(received, sent);
  };
}

NcclBackend::Call NcclBackend::scatter_call(const at::Tensor& output) {
  return [this, elements = on_the_wire(output.numel()), type = output.scalar_type()] {
    auto received = payload_tensor(elements, type);
    auto sent = payload_tensor(size_ * elements, type);
    return gloo_->_reduce_scatter_base(received, sent);
  };
}

NcclBackend::Call NcclBackend::exchange_call(const std::vector<Message>& sent, const std::vector<Message>& received) {
  std::vector<int64_t> out;
  std::vector<int64_t> in;
  for (const Message& message : sent) {
    out.push_back(on_the_wire(message.bytes));
  }
  for (const Message& message : received) {
    in.push_back(on_the_wire(message.bytes));
  }
  return [this, out, in]() mutable {
    auto all_out = payload_tensor(std::accumulate(out.begin(), out.end(), int64_t{0}), at::kByte);
    auto all_in = payload_tensor(std::accumulate(in.begin(), in.end(), int64_t{0}), at::kByte);
    return gloo_->alltoall_base(all_in, all_out, in, out);
  };
}

// Messages of each direction and peer have a stream, because gloo's may wait for each other.
NcclBackend::WorkPtr NcclBackend::message_with_gloo(c10d::OpType type, Tensors& tensors, int peer, Call call) {
  if (is_coalescing_) {
    auto work = new_work(type, tensors);
    work->note_gloo();
    pending_.calls.push_back(std::move(call));
    pending_.works.push_back(work);
    return work;
  }
  return with_gloo(type, tensors, {std::move(call)}, c10d::opTypeToString(type) + std::to_string(peer));
}

NcclBackend::WorkPtr NcclBackend::ring(c10d::OpType type, Algorithm algorithm, int64_t bytes, int root,
                                       Tensors outputs) {
  const c10::DeviceGuard guard(device_at(device_of(outputs)));
  auto group = communicator("nccl", rank_, size_);
  group->carry(take_carried());
  auto work = new_work(type, std::move(outputs));
  const std::string name = c10d::opTypeToString(type) + " of " + std::to_string(bytes) + " B";
  work->attach(group->run(algorithm, bytes, root, name, work->listeners()), group->stream());
  last_work_ = work;
  return work;
}

NcclBackend::WorkPtr NcclBackend::messages(c10d::OpType type, std::vector<Message> sent,
                                           std::vector<Message> received, Tensors outputs) {
  auto work = new_work(type, std::move(outputs));
  Pending pending{std::move(sent), std::move(received), {}, {work}};
  launch(std::move(pending), c10d::opTypeToString(type));
  last_work_ = work;
  return work;
}

namespace {

// Return the listeners of an operation that several works share.
Listeners all_listeners(const std::vector<c10::intrusive_ptr<NcclWork>>& works) {
  std::vector<Listeners> all;
  for (const auto& work : works) {
    all.push_back(work->listeners());
  }
  auto ended = [all](int64_t begin_ns, int64_t end_ns) {
    for (const Listeners& one : all) {
      one.ended(begin_ns, end_ns);
    }
  };
  auto replayed = [all] {
    std::vector<Ended> again;
    for (const Listeners& one : all) {
      again.push_back(one.replayed());
    }
    return [again = std::move(again)](int64_t begin_ns, int64_t end_ns) {
      for (const Ended& one : again) {
        one(begin_ns, end_ns);
      }
    };
  };
  return {ended, replayed};
}

}  // namespace

void NcclBackend::launch(Pending pending, const std::string& name) {
  auto group = communicator("nccl", rank_, size_);
  group->carry(pending.carried.empty() ? take_carried() : std::move(pending.carried));
  const auto works = pending.works;
  auto listeners = all_listeners(works);
  std::shared_ptr<Operation> operation;
  if (pending.calls.empty()) {
    operation = group->exchange(std::move(pending.sent), std::move(pending.received), name, std::move(listeners));
  } else {
    auto run = [calls = std::move(pending.calls)](std::chrono::milliseconds timeout) {
      std::vector<WorkPtr> all;
      for (const Call& call : calls) {
        all.push_back(call());
      }
      for (const WorkPtr& one : all) {
        one->wait(timeout);
      }
    };
    operation = group->run_call(std::move(run), name, std::move(listeners));
  }
  for (const auto& work : works) {
    work->attach(operation, group->stream());
  }
}

// As in torch, a message outside of a group has a communicator for the two ranks.
NcclBackend::WorkPtr NcclBackend::message(c10d::OpType type, std::vector<Message> sent, std::vector<Message> received,
                                          Tensors outputs, int peer) {
  const c10::DeviceGuard guard(device_at(device_of(outputs)));
  auto work = new_work(type, std::move(outputs));
  if (is_coalescing_) {
    pending_.sent.insert(pending_.sent.end(), sent.begin(), sent.end());
    pending_.received.insert(pending_.received.end(), received.begin(), received.end());
    pending_.works.push_back(work);
    return work;
  }
  const std::string pair = std::to_string(std::min(rank_, peer)) + ":" + std::to_string(std::max(rank_, peer));
  auto group = communicator(pair, rank_, size_);
  group->carry(take_carried());
  auto operation = group->exchange(std::move(sent), std::move(received), c10d::opTypeToString(type), work->listeners());
  work->attach(operation, group->stream());
  return work;
}

void NcclBackend::startCoalescing() {
  is_coalescing_ = true;
  last_work_ = nullptr;
}

NcclBackend::WorkPtr NcclBackend::endCoalescing() {
  is_coalescing_ = false;
  if (!pending_.works.empty()) {
    last_work_ = pending_.works.back();
    Pending pending;
    std::swap(pending, pending_);
    launch(std::move(pending), "COALESCED");
  }
  return last_work_;
}

NcclBackend::WorkPtr NcclBackend::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  carry_from_all(tensors, tensors, reducing(options.reduceOp, tensors.size()));
  if (gloo_) {
    auto call = [this, sent = tensors]() mutable {
      auto all = payloads(sent);
      return gloo_->allreduce(all);
    };
    return with_gloo(c10d::OpType::ALLREDUCE, tensors, {call});
  }
  return ring(c10d::OpType::ALLREDUCE, Algorithm::all_reduce, bytes_of(tensors), 0, tensors);
}

NcclBackend::WorkPtr NcclBackend::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  carry_from_all(tensors, tensors, reducing(options.reduceOp, tensors.size()));
  if (gloo_) {
    auto call = [this, sent = tensors]() mutable {
      auto all = payloads(sent);
      return gloo_->allreduce_coalesced(all);
    };
    return with_gloo(c10d::OpType::ALLREDUCE_COALESCED, tensors, {call});
  }
  return ring(c10d::OpType::ALLREDUCE_COALESCED, Algorithm::all_reduce, bytes_of(tensors), 0, tensors);
}

NcclBackend::WorkPtr NcclBackend::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  const int root = static_cast<int>(options.rootRank);
  carry_from(root, tensors, rank_ == root ? Tensors() : tensors, [](const Contributions& all) { return all[0]; });
  if (gloo_) {
    auto call = [this, sent = tensors, options]() mutable {
      auto all = payloads(sent);
      return gloo_->broadcast(all, options);
    };
    return with_gloo(c10d::OpType::BROADCAST, tensors, {call});
  }
  return ring(c10d::OpType::BROADCAST, Algorithm::broadcast, bytes_of(tensors), root, tensors);
}

NcclBackend::WorkPtr NcclBackend::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  const int root = static_cast<int>(options.rootRank);
  const bool is_root = rank_ == root;
  carry(tensors, is_root ? tensors : Tensors(), is_root && are_carried(tensors) ? all_ranks() : std::vector<int>(),
        reducing(options.reduceOp, tensors.size()));
  if (gloo_) {
    auto call = [this, sent = tensors, root]() mutable {
      auto all = payloads(sent);
      c10d::ReduceOptions of_gloo;
      of_gloo.rootRank = root;
      return gloo_->reduce(all, of_gloo);
    };
    return with_gloo(c10d::OpType::REDUCE, tensors, {call});
  }
  return ring(c10d::OpType::REDUCE, Algorithm::reduce, bytes_of(tensors), root, tensors);
}

NcclBackend::WorkPtr NcclBackend::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                            const c10d::AllgatherOptions&) {
  carry_from_all(inputs, outputs[0], firsts);
  if (gloo_) {
    auto call = [this, received = outputs[0], sent = inputs]() mutable {
      std::vector<Tensors> all{payloads(received)};
      auto mine = payloads(sent);
      return gloo_->allgather(all, mine);
    };
    return with_gloo(c10d::OpType::ALLGATHER, outputs[0], {call});
  }
  return ring(c10d::OpType::ALLGATHER, Algorithm::all_gather, size_ * bytes_of(inputs), 0, outputs[0]);
}

NcclBackend::WorkPtr NcclBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                  const c10d::AllgatherOptions&) {
  carry_from_all({input}, {output}, gathering(1));
  if (gloo_) {
    return with_gloo(c10d::OpType::_ALLGATHER_BASE, {output}, {gather_call(input)});
  }
  return ring(c10d::OpType::_ALLGATHER_BASE, Algorithm::all_gather, size_ * bytes_of(input), 0, {output});
}

NcclBackend::WorkPtr NcclBackend::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                  const c10d::AllgatherOptions&) {
  carry_from_all(inputs, outputs, gathering(inputs.size()));
  if (gloo_) {
    Calls calls;
    for (const at::Tensor& input : inputs) {
      calls.push_back(gather_call(input));
    }
    return with_gloo(c10d::OpType::COALESCED, outputs, std::move(calls));
  }
  return ring(c10d::OpType::COALESCED, Algorithm::all_gather, size_ * bytes_of(inputs), 0, outputs);
}

NcclBackend::WorkPtr NcclBackend::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                 const c10d::ReduceScatterOptions& options) {
  carry_from_all(inputs[0], outputs, reducing_for(options.reduceOp, rank_));
  if (gloo_) {
    return with_gloo(c10d::OpType::REDUCE_SCATTER, outputs, {scatter_call(outputs[0])});
  }
  return ring(c10d::OpType::REDUCE_SCATTER, Algorithm::reduce_scatter, bytes_of(inputs[0]), 0, outputs);
}

NcclBackend::WorkPtr NcclBackend::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                       const c10d::ReduceScatterOptions& options) {
  carry_from_all({input}, {output}, reducing_parts(options.reduceOp, 1, rank_, size_));
  if (gloo_) {
    return with_gloo(c10d::OpType::_REDUCE_SCATTER_BASE, {output}, {scatter_call(output)});
  }
  return ring(c10d::OpType::_REDUCE_SCATTER_BASE, Algorithm::reduce_scatter, bytes_of(input), 0, {output});
}

NcclBackend::WorkPtr NcclBackend::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                  const c10d::ReduceScatterOptions& options) {
  carry_from_all(inputs, outputs, reducing_parts(options.reduceOp, inputs.size(), rank_, size_));
  if (gloo_) {
    Calls calls;
    for (const at::Tensor& output : outputs) {
      calls.push_back(scatter_call(output));
    }
    return with_gloo(c10d::OpType::REDUCE_SCATTER_TENSOR_COALESCED, outputs, std::move(calls));
  }
  return ring(c10d::OpType::REDUCE_SCATTER_TENSOR_COALESCED, Algorithm::reduce_scatter, bytes_of(inputs), 0, outputs);
}

NcclBackend::WorkPtr NcclBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                std::vector<int64_t>& output_splits,
                                                std::vector<int64_t>& input_splits, const c10d::AllToAllOptions&) {
  const c10::DeviceGuard guard(output.device());
  const auto row_bytes = [](const at::Tensor& tensor) {
    return tensor.size(0) == 0 ? 0 : bytes_of(tensor) / tensor.size(0);
  };
  std::vector<Message> sent;
  std::vector<Message> received;
  for (int peer = 0; peer < size_; ++peer) {
    const int64_t out = input_splits.empty() ? bytes_of(input) / size_ : input_splits[peer] * row_bytes(input);
    const int64_t in = output_splits.empty() ? bytes_of(output) / size_ : output_splits[peer] * row_bytes(output);
    sent.push_back({peer, out});
    received.push_back({peer, in});
  }
  const Tensors parts = input_splits.empty() ? input.chunk(size_) : input.split_with_sizes(input_splits);
  carry_from_all(parts, {output}, those_for_joined(rank_));
  if (gloo_) {
    return with_gloo(c10d::OpType::ALLTOALL_BASE, {output}, {exchange_call(sent, received)});
  }
  return messages(c10d::OpType::ALLTOALL_BASE, std::move(sent), std::move(received), {output});
}

NcclBackend::WorkPtr NcclBackend::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions&) {
  const c10::DeviceGuard guard(device_at(device_of(outputs)));
  std::vector<Message> sent;
  std::vector<Message> received;
  for (int peer = 0; peer < size_; ++peer) {
    sent.push_back({peer, bytes_of(inputs[peer])});
    received.push_back({peer, bytes_of(outputs[peer])});
  }
  carry_from_all(inputs, outputs, those_for(rank_));
  if (gloo_) {
    return with_gloo(c10d::OpType::ALLTOALL, outputs, {exchange_call(sent, received)});
  }
  return messages(c10d::OpType::ALLTOALL, std::move(sent), std::move(received), outputs);
}

NcclBackend::WorkPtr NcclBackend::gather(std::vector<Tensors>& outputs, Tensors& inputs,
                                         const c10d::GatherOptions& options) {
  const c10::DeviceGuard guard(device_at(device_of(inputs)));
  const int root = static_cast<int>(options.rootRank);
  std::vector<Message> sent{{root, bytes_of(inputs)}};
  std::vector<Message> received;
  Tensors all;
  if (rank_ == root) {
    sent.clear();
    all = outputs[0];
    for (int peer = 0; peer < size_; ++peer) {
      received.push_back({peer, bytes_of(all[peer])});
    }
  }
  carry(inputs, all, rank_ == root ? all_ranks() : std::vector<int>(), firsts);
  if (gloo_) {
    auto call = [this, sent = inputs, received = all, options]() mutable {
      std::vector<Tensors> parts;
      if (!received.empty()) {
        parts.push_back(payloads(received));
      }
      auto mine = payloads(sent);
      return gloo_->gather(parts, mine, options);
    };
    return with_gloo(c10d::OpType::GATHER, all.empty() ? inputs : all, {call});
  }
  return messages(c10d::OpType::GATHER, std::move(sent), std::move(received), all);
}

NcclBackend::WorkPtr NcclBackend::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                          const c10d::ScatterOptions& options) {
  const c10::DeviceGuard guard(device_at(device_of(outputs)));
  const int root = static_cast<int>(options.rootRank);
  std::vector<Message> sent;
  std::vector<Message> received{{root, bytes_of(outputs)}};
  if (rank_ == root) {
    received.clear();
    for (int peer = 0; peer < size_; ++peer) {
      sent.push_back({peer, bytes_of(inputs[0][peer])});
    }
  }
  carry_from(root, rank_ == root ? inputs[0] : Tensors(), outputs, those_for(rank_));
  if (gloo_) {
    auto call = [this, received = outputs, all = inputs, options]() mutable {
      std::vector<Tensors> parts;
      for (const Tensors& list : all) {
        parts.push_back(payloads(list));
      }
      auto mine = payloads(received);
      return gloo_->scatter(mine, parts, options);
    };
    return with_gloo(c10d::OpType::SCATTER, outputs, {call});
  }
  return messages(c10d::OpType::SCATTER, std::move(sent), std::move(received), outputs);
}

NcclBackend::WorkPtr NcclBackend::send(Tensors& tensors, int target, int tag) {
  carry_message(rank_, target, tensors, {});
  if (gloo_) {
    auto call = [this, sent = tensors, target, tag]() mutable {
      auto all = payloads(sent);
      return gloo_->send(all, target, tag);
    };
    return message_with_gloo(c10d::OpType::SEND, tensors, target, call);
  }
  return message(c10d::OpType::SEND, {{target, bytes_of(tensors)}}, {}, tensors, target);
}

NcclBackend::WorkPtr NcclBackend::recv(Tensors& tensors, int source, int tag) {
  carry_message(source, rank_, {}, tensors);
  if (gloo_) {
    auto call = [this, received = tensors, source, tag]() mutable {
      auto all = payloads(received);
      return gloo_->recv(all, source, tag);
    };
    return message_with_gloo(c10d::OpType::RECV, tensors, source, call);
  }
  return message(c10d::OpType::RECV, {}, {{source, bytes_of(tensors)}}, tensors, source);
}

NcclBackend::WorkPtr NcclBackend::barrier(const c10d::BarrierOptions&) {
  if (gloo_) {
    auto waiting = with_gloo(c10d::OpType::BARRIER, {}, {[this] { return gloo_->barrier(); }});
    static_cast<NcclWork*>(waiting.get())->stop_the_cpu();
    return waiting;
  }
  constexpr int64_t ONE_NUMBER = 4;
  auto work = ring(c10d::OpType::BARRIER, Algorithm::all_reduce, ONE_NUMBER, 0, {});
  static_cast<NcclWork*>(work.get())->stop_the_cpu();
  return work;
}

}  // namespace testbed

namespace c10d {
using ModelledTimer = testbed::Timer;
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, ModelledTimer)
}  // namespace c10d
