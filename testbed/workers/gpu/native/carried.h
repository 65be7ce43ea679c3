// Values that a collective carries from rank to rank. The network carries as many bytes as a
// collective has, all from one buffer. Ranks run on one machine, so they exchange the few values
// that are known (values.h) through files, in no time of the run's clock: a rank writes its file
// before its part of the operation begins, and reads those of others after it has ended.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace testbed {

using Tensors = std::vector<at::Tensor>;
// The tensors of each rank in main memory; none of a rank that knows no values.
using Contributions = std::vector<Tensors>;

// Returns the outputs of an operation in main memory, or nothing if they are not known.
using Combine = std::function<Tensors(const Contributions&)>;

// Return a name for a group that its ranks share, and no other group of the run has.
std::string unique_name(const c10::intrusive_ptr<c10d::Store>& store);

// One operation as it concerns values.
class Carried {
 public:
  // Args:
  //   key: a name of the operation that its ranks share.
  //   rank: this rank.
  //   inputs: what this rank contributes; empty: nothing.
  //   outputs: what the operation writes.
  //   senders: ranks whose contributions the outputs need.
  //   combine: what makes the outputs of the contributions.
  Carried(std::string key, int rank, const Tensors& inputs, const Tensors& outputs, std::vector<int> senders,
          Combine combine);

  void before() const;  // the operation begins on the stream
  void after();         // the operation has ended

 private:
  std::string file_of(int rank) const { return key_ + "-" + std::to_string(rank); }

  std::string key_;
  std::vector<int> senders_;
  std::shared_ptr<Contributions> contributions_;
  std::shared_ptr<std::atomic<bool>> has_ended_;
};

// Whether values of tensors may be known to this rank.
bool are_carried(const Tensors& tensors);

}  // namespace testbed
