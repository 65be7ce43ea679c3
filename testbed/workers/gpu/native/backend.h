// torch.distributed's backend "nccl" for modelled devices.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "communicator.h"

namespace testbed {

// The work of an operation; `ended` completes when the operation ends, with its begin and end in
// Unix ns, whereas the work's future, as with NCCL, orders streams.
class NcclWork final : public c10d::Work {
 public:
  NcclWork(int rank, c10d::OpType type, int device, std::vector<at::Tensor> outputs);

  void attach(std::shared_ptr<Operation> operation, int64_t stream);
  Listeners listeners() const;

  bool isCompleted() override;
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds timeout) override;
  void synchronize() override;
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }
  c10::intrusive_ptr<c10::ivalue::Future> ended() const { return ended_; }
  void stop_the_cpu() { stops_cpu_ = true; }
  bool uses_gloo() const { return uses_gloo_; }
  void note_gloo() { uses_gloo_ = true; }
  void set_label(int label);  // by which Python knows the operation
  // Whether the operation is a part of a CUDA graph, and never runs itself.
  bool is_captured() const;
  // Call `replayed` when a graph begins the operation again, with what completes as `ended`.
  using Future = c10::intrusive_ptr<c10::ivalue::Future>;
  void on_replay(std::function<void(Future)> replayed) { *replayed_ = std::move(replayed); }

 private:
  int device_;
  std::vector<at::Tensor> outputs_;
  std::shared_ptr<Operation> operation_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
  c10::intrusive_ptr<c10::ivalue::Future> ended_;
  std::shared_ptr<std::function<void(Future)>> replayed_ = std::make_shared<std::function<void(Future)>>();
  bool stops_cpu_ = false;
  int label_ = -1;
  bool uses_gloo_ = false;
};

struct NcclOptions final : c10d::Backend::Options {
  explicit NcclOptions(bool is_high_priority = false)
      : c10d::Backend::Options("nccl"), is_high_priority_stream(is_high_priority) {}
  bool is_high_priority_stream;
  int split_color = 0;
};

class NcclBackend final : public c10d::Backend {
 public:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  NcclBackend(c10::intrusive_ptr<c10d::Store> store, int rank, int size, c10::intrusive_ptr<NcclOptions> options);

  const std::string getBackendName() const override { return "nccl"; }
  // Let gloo carry out all operations, with payloads of main memory.
  void use_gloo(c10::intrusive_ptr<c10d::Backend> gloo) { gloo_ = std::move(gloo); }
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override { return options_; }
  bool supportsCoalescing() const override { return true; }
  void setTimeout(std::chrono::milliseconds timeout) override;
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return sequence_; }
  void shutdown() override;
  void abort() override { shutdown(); }
  void waitForPendingWorks() override;

  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& options) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                               const c10d::ReduceScatterOptions& options) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                        std::vector<int64_t>& input_splits, const c10d::AllToAllOptions& options) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr send(Tensors& tensors, int target, int tag) override;
  WorkPtr recv(Tensors& tensors, int source, int tag) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;
  void startCoalescing() override;
  WorkPtr endCoalescing() override;

 private:
  // Calls of gloo for one operation, which begin together.
  using Call = std::function<WorkPtr()>;
  using Calls = std::vector<Call>;
  struct Pending {
    std::vector<Message> sent;
    std::vector<Message> received;
    Calls calls;
    std::vector<c10::intrusive_ptr<NcclWork>> works;
    std::vector<std::shared_ptr<Carried>> carried;
  };

  // Let the next operation carry the values of `inputs`; `senders`: ranks that `outputs` depend on.
  void carry(const Tensors& inputs, const Tensors& outputs, std::vector<int> senders, Combine combine);
  void carry_from_all(const Tensors& inputs, const Tensors& outputs, Combine combine);
  void carry_from(int root, const Tensors& inputs, const Tensors& outputs, Combine combine);
  void carry_message(int source, int target, const Tensors& sent, const Tensors& received);
  std::vector<std::shared_ptr<Carried>> take_carried();
  std::vector<int> all_ranks() const;
  WorkPtr ring(c10d::OpType type, Algorithm algorithm, int64_t bytes, int root, Tensors outputs);
  WorkPtr messages(c10d::OpType type, std::vector<Message> sent, std::vector<Message> received, Tensors outputs);
  WorkPtr message(c10d::OpType type, std::vector<Message> sent, std::vector<Message> received, Tensors outputs,
                  int peer);
  at::Tensor payload(const at::Tensor& tensor) const;
  Tensors payloads(const Tensors& tensors) const;
  int64_t on_the_wire(int64_t elements) const;
  Call gather_call(const at::Tensor& input);
  Call scatter_call(const at::Tensor& output);
  Call exchange_call(const std::vector<Message>& sent, const std::vector<Message>& received);
  WorkPtr with_gloo(c10d::OpType type, Tensors outputs, Calls calls, const std::string& name = "gloo");
  WorkPtr message_with_gloo(c10d::OpType type, Tensors& tensors, int peer, Call call);
  std::shared_ptr<Communicator> communicator(const std::string& name, int rank, int ranks);
  c10::intrusive_ptr<NcclWork> new_work(c10d::OpType type, Tensors outputs);
  void launch(Pending pending, const std::string& name);

  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<NcclOptions> options_;
  c10::intrusive_ptr<c10d::Backend> gloo_;  // null: NCCL itself
  std::map<std::string, std::shared_ptr<Communicator>> communicators_;
  bool is_coalescing_ = false;
  Pending pending_;
  WorkPtr last_work_;
  uint64_t sequence_ = 0;
  std::string name_;                          // of the files with values; empty: none
  std::vector<std::shared_ptr<Carried>> next_carried_;
  int64_t carried_ = 0;                       // operations so far
  std::map<std::pair<int, int>, int64_t> messages_;  // so far, by sender and receiver
};

// Set how ranks of this process send; before the first operation.
void set_network(const Network& network);

// Wait until all operations of this process have ended.
void drain_all();

}  // namespace testbed
