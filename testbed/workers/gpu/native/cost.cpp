#include "cost.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "device.h"

namespace testbed {

namespace {

using Arguments = c10::ArrayRef<c10::IValue>;

// Operators that write their first argument without reading it.
const std::unordered_set<std::string_view> WRITE_ONLY = {
    "aten::zero_",   "aten::fill_",        "aten::uniform_",          "aten::normal_",
    "aten::random_", "aten::bernoulli_",   "aten::exponential_",      "aten::_foreach_zero_",
    "aten::_foreach_copy_", "aten::trunc_normal_"};
// Operators that read as many elements of their first argument as they give back.
const std::unordered_set<std::string_view> LOOK_UPS = {
    "aten::index_select", "aten::embedding", "aten::gather", "aten::index", "aten::take"};

const at::Tensor& tensor(Arguments arguments, size_t place) { return arguments[place].toTensor(); }

double bytes_of(const at::Tensor& value) {
  if (!value.defined()) {
    return 0;
  }
  const auto bytes = static_cast<double>(value.numel()) * static_cast<double>(value.itemsize());
  // an expanded tensor has more elements than memory
  return std::min(bytes, static_cast<double>(value.storage().nbytes()));
}

double bytes_of(const c10::IValue& value) {
  if (value.isTensor()) {
    return bytes_of(value.toTensor());
  }
  double bytes = 0;
  if (value.isTensorList()) {
    for (const at::Tensor& part : value.toTensorVector()) {
      bytes += bytes_of(part);
    }
  }
  return bytes;
}

double traffic(const c10::FunctionSchema& schema, Arguments arguments, Arguments results) {
  double given = 0;
  for (const auto& value : results) {
    given += bytes_of(value);
  }
  const bool is_look_up = LOOK_UPS.count(schema.name()) > 0;
  const bool is_write_only = WRITE_ONLY.count(schema.name()) > 0;
  double bytes = given;
  for (size_t place = 0; place < arguments.size(); ++place) {
    const auto& argument = schema.arguments()[place];
    const double size = bytes_of(arguments[place]);
    const bool is_written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    if (place == 0 && is_look_up) {
      bytes += std::min(size, given);
    } else if (is_written && !argument.is_out() && !is_write_only) {
      bytes += 2 * size;
    } else {
      bytes += size;
    }
  }
  return bytes;
}

double product_of(const at::Tensor& left, const at::Tensor& right) {
  const double rows = static_cast<double>(left.numel()) / static_cast<double>(std::max<int64_t>(1, left.size(-1)));
  return 2.0 * rows * static_cast<double>(left.size(-1)) * static_cast<double>(right.size(-1));
}

double matrix_product(const c10::FunctionSchema&, Arguments arguments, Arguments) {
  return product_of(tensor(arguments, 0), tensor(arguments, 1));
}

double added_product(const c10::FunctionSchema&, Arguments arguments, Arguments) {
  return product_of(tensor(arguments, 1), tensor(arguments, 2));
}

double one_convolution(const at::Tensor& output, const at::Tensor& input, const at::Tensor& weight, bool transposed) {
  const at::Tensor& larger = transposed ? input : output;
  return 2.0 * static_cast<double>(larger.numel()) * static_cast<double>(weight.numel()) /
         static_cast<double>(weight.size(0));
}

size_t place_of(const c10::FunctionSchema& schema, const char* name) {
  return static_cast<size_t>(schema.argumentIndexWithName(name).value());
}

double convolution(const c10::FunctionSchema& schema, Arguments arguments, Arguments results) {
  const bool transposed = arguments[place_of(schema, "transposed")].toBool();
  return one_convolution(results[0].toTensor(), tensor(arguments, 0), tensor(arguments, 1), transposed);
}

double convolution_backward(const c10::FunctionSchema& schema, Arguments arguments, Arguments) {
  const bool transposed = arguments[place_of(schema, "transposed")].toBool();
  const auto wanted = arguments[place_of(schema, "output_mask")].toBoolList();
  const double one =
      one_convolution(tensor(arguments, 0), tensor(arguments, 1), tensor(arguments, 2), transposed);
  return one * (static_cast<int>(wanted[0]) + static_cast<int>(wanted[1]));
}

// FLOPs of both products of fused attention; blocks above the diagonal are skipped if causal.
double attention(const c10::FunctionSchema& schema, Arguments arguments, Arguments) {
  const at::Tensor& query = tensor(arguments, place_of(schema, "query"));
  const at::Tensor& key = tensor(arguments, place_of(schema, "key"));
  const at::Tensor& value = tensor(arguments, place_of(schema, "value"));
  const auto queries = static_cast<double>(query.numel()) / static_cast<double>(std::max<int64_t>(1, query.size(-1)));
  const auto keys = static_cast<double>(key.size(-2));
  const double both = 2.0 * queries * keys * static_cast<double>(query.size(-1) + value.size(-1));
  return arguments[place_of(schema, "is_causal")].toBool() ? both / 2 : both;
}

double attention_backward(const c10::FunctionSchema& schema, Arguments arguments, Arguments results) {
  return 2.5 * attention(schema, arguments, results);  // five products instead of two
}

struct Formula {
  double (*flops)(const c10::FunctionSchema&, Arguments, Arguments);
  size_t factor;  // place of the argument whose type of numbers is multiplied
  bool is_attention = false;
};

const std::unordered_map<std::string_view, Formula> FORMULAS = {
    {"aten::mm", {matrix_product, 0}},
    {"aten::bmm", {matrix_product, 0}},
    {"aten::_scaled_mm", {matrix_product, 0}},
    {"aten::addmm", {added_product, 1}},
    {"aten::addmm_", {added_product, 1}},
    {"aten::_addmm_activation", {added_product, 1}},
    {"aten::baddbmm", {added_product, 1}},
    {"aten::baddbmm_", {added_product, 1}},
    {"aten::convolution", {convolution, 0}},
    {"aten::convolution_backward", {convolution_backward, 0}},
    {"aten::_scaled_dot_product_flash_attention", {attention, 0, true}},
    {"aten::_scaled_dot_product_efficient_attention", {attention, 0, true}},
    {"aten::_scaled_dot_product_flash_attention_backward", {attention_backward, 0, true}},
    {"aten::_scaled_dot_product_efficient_attention_backward", {attention_backward, 0, true}},
};

Format format_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return Format::float64;
    case at::kHalf:
    case at::kBFloat16:
      return Format::float16;
    case at::kFloat8_e4m3fn:
    case at::kFloat8_e5m2:
      return Format::float8;
    default:
      break;
  }
  const bool is_exact = at::globalContext().float32MatmulPrecision() == at::Float32MatmulPrecision::HIGHEST;
  return is_exact ? Format::float32 : Format::tf32;
}

int64_t rounded(double ns) { return std::max<int64_t>(1, std::llround(ns)); }

}  // namespace

Cost kernel_cost(const c10::FunctionSchema& schema, Arguments arguments, Arguments results) {
  const Accelerator& gpu = accelerator();
  const double memory_ns = traffic(schema, arguments, results) / gpu.bytes_per_ns;
  double flops = 0;
  double arithmetic_ns = 0;
  const auto formula = FORMULAS.find(schema.name());
  if (formula != FORMULAS.end()) {
    flops = formula->second.flops(schema, arguments, results);
    const Format format = format_of(tensor(arguments, formula->second.factor).scalar_type());
    double rate = gpu.flops_per_ns[static_cast<int>(format)];
    if (formula->second.is_attention) {
      rate *= gpu.attention_share;
    }
    arithmetic_ns = flops / rate;
  }
  return {{rounded(std::max(memory_ns, arithmetic_ns)), std::llround(arithmetic_ns), std::llround(memory_ns)}, flops};
}

KernelTime traffic_time(double bytes) {
  const int64_t ns = rounded(bytes / accelerator().bytes_per_ns);
  return {ns, 0, ns};
}

int64_t host_copy_ns(double bytes) { return rounded(bytes / accelerator().host_bytes_per_ns); }

}  // namespace testbed
