#include "train/memory.h"

#include <fstream>
#include <limits>

#include "base/file.h"
#include "model/head.h"
#include "ops/elementwise.h"
#include "train/evaluate.h"
#include "train/optimizer.h"

namespace sluice {
namespace {

constexpr size_t kSlack = size_t{64} << 20;       // token ids, counts, losses
constexpr size_t kKernelBytes = size_t{2} << 30;  // the GPU: scratch (1 GiB: attention), CUDA's own
constexpr size_t kBatchTokenBytes = 20;           // of the whole step's tokens: ids, first, loss, targets

/// Refuses sizes whose sums would overflow before check_memory can compare them.
void check_magnitude(const HfConfig& c, int64_t tokens) {
  const double heads = static_cast<double>(c.num_attention_heads);
  const double width = static_cast<double>(c.hidden_size) + static_cast<double>(c.intermediate_size) +
                       heads * static_cast<double>(c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim) +
                       static_cast<double>(c.moe_intermediate_size) * static_cast<double>(c.num_experts_per_tok);
  const double bytes = 4 * width * static_cast<double>(tokens) * static_cast<double>(c.num_hidden_layers);
  if (bytes > 0x1p56)
    fail(
        "memory: activations of one micro-batch take more than {:.0g} bytes; a smaller micro_batch, seq_len or model "
        "needs less",
        bytes);
}

/// A batch of counted tensors.
ModelBatch counted_batch(Arena& a, const HfConfig& c, int64_t rows, int64_t tokens) {
  ModelBatch b;
  b.batch = rows;
  b.tokens = tokens;
  b.ids_T = b.first_T = b.target_T = a.alloc(DType::i32, {rows * tokens});
  for (int64_t k = 0; k < c.num_nextn_predict_layers; ++k)
    b.mtp_target.push_back(a.alloc(DType::i32, {rows * (tokens - 1 - k)}));
  return b;
}

double gib(size_t bytes) { return static_cast<double>(bytes) / static_cast<double>(1 << 30); }

}  // namespace

size_t activation_bytes(const HfConfig& c, const TrainConfig& config, Precision precision, const Device& device,
                        ExpertExchange* exchange) {
  const int64_t rows = std::min(config.micro_batch, config.batch_size);
  check_magnitude(c, std::max(rows, evaluation_rows(config.seq_len)) * config.seq_len);
  Stream s = Stream::dry();
  Arena weights = Arena::counting();
  Model m;
  m.config = c;
  m.precision = precision;
  m.exchange = exchange;
  m.weights = weight_shapes(c, c.num_nextn_predict_layers);
  ModelWeights grad = weight_shapes(c, c.num_nextn_predict_layers);
  for (const Param& p : parameters(m.weights)) allocate(*p.matrix, working_format(p.kind, precision), weights);
  for (const Param& p : parameters(grad)) allocate(*p.matrix, Format::f32, weights);
  PassOptions o;
  o.recompute = config.recompute;
  o.balance_alpha = 1;
  Arena arena = Arena::counting(device), forward = Arena::counting(device);
  model_forward_backward(s, arena, m, grad, counted_batch(arena, c, rows, config.seq_len), o, {});
  // Evaluation keeps what the forward pass keeps, without recomputation's savings.
  o.recompute = false;
  model_forward(s, forward, m, counted_batch(forward, c, evaluation_rows(config.seq_len), config.seq_len), o, {});
  const size_t batch = kBatchTokenBytes * static_cast<size_t>(config.batch_size * (config.seq_len + 1));
  const int64_t evaluated = evaluation_rows(config.seq_len) * config.seq_len;
  const size_t logits = static_cast<size_t>(logit_rows(device, evaluated) * c.vocab_size) * 4;
  return std::max(arena.peak_bytes(), forward.peak_bytes() + logits) + batch + kSlack;
}

size_t available_memory() {
  size_t available = std::numeric_limits<size_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key;) {
    size_t kib = 0;
    if (key == "MemAvailable:" && meminfo >> kib) available = kib << 10;
  }
  size_t limit = 0, used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    std::ifstream stat("/sys/fs/cgroup/memory.stat");
    size_t cache = 0;  // of files, given back on demand
    for (std::string key; stat >> key;)
      if (size_t n = 0; stat >> n && key == "inactive_file") cache = n;
    used -= std::min(used, cache);
    available = std::min(available, limit > used ? limit - used : 0);
  }
  return available;
}

size_t available_memory(const Device& device) {
  if (!device.is_cuda()) return available_memory();
  const size_t available = free_memory(device);
  return available - std::min(available, kKernelBytes);
}

void check_memory(const HfConfig& c, const TrainConfig& config, Precision precision, size_t activations,
                  const Device& device, double part) {
  const int64_t mtp = c.num_nextn_predict_layers;
  const auto here = [&](size_t bytes) { return static_cast<size_t>(part * static_cast<double>(bytes)); };
  const size_t weights = here(model_bytes(c, mtp, precision)), optimizer = here(Optimizer::bytes(c, mtp, precision));
  const size_t average = config.ema_decay > 0 ? here(model_bytes(c, mtp, Precision::f32)) : 0;
  const size_t available = available_memory(device), total = weights + optimizer + average + activations;
  if (total > available)
    fail(
        "memory: the run needs {:.2f} GiB (weights {:.2f}, gradients and optimiser {:.2f}, average {:.2f}, activations "
        "{:.2f}), {} has {:.2f}; a smaller micro_batch, seq_len or model, or recompute: true, needs less",
        gib(total), gib(weights), gib(optimizer), gib(average), gib(activations),
        device.is_cuda() ? device_text(device) : "the machine", gib(available));
}

void copy_weights(Stream& s, ModelWeights& src, ModelWeights& dst, const ParamMask& mask) {
  const std::vector<Param> from = parameters(src), to = parameters(dst);
  for (size_t i = 0; i < from.size(); ++i)
    if (is_in(mask, i)) copy(s, to[i].matrix->tensor(), from[i].matrix->tensor());
}

}  // namespace sluice
