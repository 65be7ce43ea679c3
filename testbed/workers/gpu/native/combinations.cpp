#include "combinations.h"

#include <ATen/ATen.h>

namespace testbed {

namespace {

// Return the sum, or another reduction, of one tensor of each rank; undefined if one is missing.
at::Tensor reduced(const Contributions& all, size_t place, const c10d::ReduceOp& op) {
  at::Tensor result;
  for (const Tensors& one : all) {
    if (place >= one.size()) {
      return {};
    }
    const at::Tensor& values = one[place];
    if (!result.defined()) {
      result = values.clone();
      continue;
    }
    switch (op.op_) {
      case c10d::ReduceOp::SUM:
      case c10d::ReduceOp::AVG:
        result = values.scalar_type() == at::kBool ? result.logical_or(values) : result + values;
        break;
      case c10d::ReduceOp::PRODUCT:
        result = result * values;
        break;
      case c10d::ReduceOp::MIN:
        result = at::minimum(result, values);
        break;
      case c10d::ReduceOp::MAX:
        result = at::maximum(result, values);
        break;
      case c10d::ReduceOp::BAND:
        result = result.bitwise_and(values);
        break;
      case c10d::ReduceOp::BOR:
        result = result.bitwise_or(values);
        break;
      case c10d::ReduceOp::BXOR:
        result = result.bitwise_xor(values);
        break;
      default:
        return {};
    }
  }
  if (op.op_ == c10d::ReduceOp::AVG) {
    result = at::isFloatingType(result.scalar_type()) ? result / static_cast<double>(all.size())
                                                      : result.floor_divide(static_cast<int64_t>(all.size()));
  }
  return result;
}

}  // namespace

Combine reducing(const c10d::ReduceOp& op, size_t tensors) {
  return [op, tensors](const Contributions& all) {
    Tensors results;
    for (size_t place = 0; place < tensors; ++place) {
      results.push_back(reduced(all, place, op));
    }
    return results;
  };
}

Combine gathering(size_t tensors) {
  return [tensors](const Contributions& all) {
    Tensors results;
    for (size_t place = 0; place < tensors; ++place) {
      Tensors parts;
      for (const Tensors& one : all) {
        parts.push_back(one[place].reshape({-1}));
      }
      results.push_back(at::cat(parts));
    }
    return results;
  };
}

Tensors firsts(const Contributions& all) {
  Tensors results;
  for (const Tensors& one : all) {
    results.push_back(one[0]);
  }
  return results;
}

Combine those_for(int rank) {
  return [rank](const Contributions& all) {
    Tensors results;
    for (const Tensors& one : all) {
      results.push_back(one[static_cast<size_t>(rank)]);
    }
    return results;
  };
}

Combine reducing_parts(const c10d::ReduceOp& op, size_t tensors, int rank, int ranks) {
  return [op, tensors, rank, ranks](const Contributions& all) {
    Tensors results;
    for (size_t place = 0; place < tensors; ++place) {
      const at::Tensor whole = reduced(all, place, op);
      results.push_back(whole.defined() ? whole.reshape({-1}).chunk(ranks)[static_cast<size_t>(rank)] : whole);
    }
    return results;
  };
}

Combine reducing_for(const c10d::ReduceOp& op, int rank) {
  return [op, rank](const Contributions& all) { return Tensors{reduced(all, static_cast<size_t>(rank), op)}; };
}

Combine those_for_joined(int rank) {
  return [rank](const Contributions& all) {
    Tensors parts;
    for (const Tensors& one : all) {
      parts.push_back(one[static_cast<size_t>(rank)].reshape({-1}));
    }
    return Tensors{at::cat(parts)};
  };
}

}  // namespace testbed
