#include "engine/expert_cache.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "ops/block_format.h"

namespace sluice {
namespace {

/// Rows of a piece are a multiple of this: groups of the machine's layout are never cut.
constexpr int64_t kRowUnit = 64;
/// About the bytes of a piece: a large read, and still in a core's cache when it is packed.
constexpr int64_t kPieceBytes = int64_t{1} << 20;
/// Experts that a layer may have in flight beyond its share of the places: enough for all readers.
constexpr int64_t kInFlight = 2 * ExpertCache::kReaders;
constexpr size_t kAlign = 64;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int64_t file_bytes(const Matrix& w) { return w.rows * row_bytes(w.format, w.cols); }

int64_t piece_rows(const Matrix& w) {
  return std::max<int64_t>(1, kPieceBytes / row_bytes(w.format, w.cols) / kRowUnit) * kRowUnit;
}

int64_t num_pieces(const Matrix& w) { return (w.rows + piece_rows(w) - 1) / piece_rows(w); }

size_t aligned_packed_bytes(const Matrix& w) {
  return (packed_bytes(w.format, w.rows, w.cols) + kAlign - 1) / kAlign * kAlign;
}

size_t piece_buffer_bytes(const Model& m) {
  size_t most = 0;
  for (const MoeWeights* w : expert_layers(m.weights))
    for (const Matrix* x : {&w->gate[0], &w->up[0], &w->down[0]})
      most = std::max(most, static_cast<size_t>(std::min(x->rows, piece_rows(*x)) * row_bytes(x->format, x->cols)));
  return DirectFile::buffer_bytes(most);
}

size_t largest_slot(const Model& m) {
  size_t most = 0;
  for (const MoeWeights* w : expert_layers(m.weights)) most = std::max(most, ExpertCache::slot_bytes(*w));
  return most;
}

}  // namespace

std::vector<const MoeWeights*> expert_layers(const ModelWeights& w) {
  std::vector<const MoeWeights*> layers;
  for (const BlockWeights& b : w.layers)
    if (b.is_moe) layers.push_back(&b.moe);
  for (const MtpWeights& m : w.mtp)
    if (m.block.is_moe) layers.push_back(&m.block.moe);
  return layers;
}

size_t ExpertCache::slot_bytes(const MoeWeights& w) {
  return aligned_packed_bytes(w.gate[0]) + aligned_packed_bytes(w.up[0]) + aligned_packed_bytes(w.down[0]);
}

size_t ExpertCache::reading_bytes(const Model& m) { return kReaders * piece_buffer_bytes(m); }

ExpertCache::ExpertCache(const Model& m, int64_t slots)
    : layers_(expert_layers(m.weights)),
      mappings_(m.mappings),
      slot_bytes_(largest_slot(m)),
      buffer_bytes_(piece_buffer_bytes(m)),
      memory_(static_cast<size_t>(slots) * slot_bytes_),
      buffers_(kReaders * buffer_bytes_),  // each of whole pages
      slots_(static_cast<size_t>(slots)),
      held_(layers_.size()),
      is_used_(layers_.size()) {
  check(slots >= 1, "ExpertCache: expected at least one place");
  for (const MappedFile& file : mappings_) files_.emplace_back(file.path());
  for (const MoeWeights* w : layers_) {
    layer_index_.emplace(w, static_cast<int32_t>(slot_of_.size()));
    slot_of_.emplace_back(w->gate.size(), -1);
  }
  for (int64_t i = slots; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
  for (Slot& slot : slots_)
    slot.matrix[0].data = static_cast<std::byte*>(memory_.alloc(DType::u8, {static_cast<int64_t>(slot_bytes_)}).data);
  try {
    for (int i = 0; i < kReaders; ++i) {
      const Tensor buffer = buffers_.alloc(DType::u8, {static_cast<int64_t>(buffer_bytes_)});
      Stream& s = reader_streams_.emplace_back(1);
      readers_.emplace_back([this, &s, data = static_cast<std::byte*>(buffer.data)] {
        read_loop(s, {data, buffer_bytes_});
      });
    }
  } catch (const std::system_error&) {
    stop();
    fail("threads: the system refuses the {} that read experts", kReaders);
  }
}

ExpertCache::~ExpertCache() { stop(); }

void ExpertCache::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& t : readers_) t.join();
}

const Matrix& ExpertCache::matrix(int32_t layer, int32_t expert, int which) const {
  const MoeWeights& w = *layers_[static_cast<size_t>(layer)];
  return (which == 0 ? w.gate : which == 1 ? w.up : w.down)[static_cast<size_t>(expert)];
}

int64_t ExpertCache::expert_bytes(int32_t layer) const {
  return file_bytes(matrix(layer, 0, 0)) + file_bytes(matrix(layer, 0, 1)) + file_bytes(matrix(layer, 0, 2));
}

ExpertCache::Piece ExpertCache::piece(const Slot& slot, int64_t index) const {
  for (int which = 0;; ++which) {
    const Matrix& w = matrix(slot.layer, slot.expert, which);
    if (const int64_t n = num_pieces(w); index >= n) {
      index -= n;
      continue;
    }
    const int64_t begin = index * piece_rows(w);
    Piece p{w, slot.matrix[which]};
    p.rows.rows = p.out.rows = std::min(piece_rows(w), w.rows - begin);
    p.rows.data = static_cast<std::byte*>(w.data) + begin * row_bytes(w.format, w.cols);
    p.out.data += begin > 0 ? packed_bytes(w.format, begin, w.cols) : 0;
    return p;
  }
}

/// The least recently used expert of a layer that may be evicted, used before `before`; -1: none.
int32_t ExpertCache::oldest(int32_t layer, uint64_t before) const {
  int32_t found = -1;
  for (const int32_t i : slot_of_[static_cast<size_t>(layer)]) {
    if (i < 0) continue;
    const Slot& slot = slots_[static_cast<size_t>(i)];
    if (slot.is_wanted || slot.done < slot.pieces || slot.used >= before) continue;
    before = slot.used;
    found = i;
  }
  return found;
}

/// A place for an expert of `layer`; -1: none at present. Only what was used before `before` is evicted.
int32_t ExpertCache::take(int32_t layer, bool ahead, uint64_t before) {
  if (!free_.empty()) {
    const int32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  const int64_t used = std::count(is_used_.begin(), is_used_.end(), true);
  const int64_t share = std::max<int64_t>(1, static_cast<int64_t>(slots_.size()) / std::max<int64_t>(1, used));
  int32_t victim = -1;
  if (held_[static_cast<size_t>(layer)] >= share) {
    victim = oldest(layer, before);
    if (victim < 0 && (ahead || loading_ >= kInFlight)) return -1;
  }
  // From the layer furthest over its share; from one that is not, only what a pass cannot do without.
  const int64_t least = ahead ? share : 0;
  for (int64_t held = *std::max_element(held_.begin(), held_.end()); victim < 0 && held > least; --held)
    for (size_t l = 0; victim < 0 && l < layers_.size(); ++l)
      if (held_[l] == held) victim = oldest(static_cast<int32_t>(l), before);
  if (victim >= 0) detach(victim);
  return victim;
}

/// Forgets the expert in a place.
void ExpertCache::detach(int32_t slot) {
  Slot& s = slots_[static_cast<size_t>(slot)];
  slot_of(s.layer, s.expert) = -1;
  --held_[static_cast<size_t>(s.layer)];
  s.is_wanted = false;
}

/// Whether a place was found to read an expert into.
bool ExpertCache::start(int32_t layer, int32_t expert, bool ahead, uint64_t before) {
  const int32_t index = take(layer, ahead, before);
  if (index < 0) return false;
  Slot& slot = slots_[static_cast<size_t>(index)];
  slot.layer = layer;
  slot.expert = expert;
  slot.next_piece = slot.done = slot.pieces = 0;
  slot.used = ++clock_;
  slot.is_wanted = !ahead;
  slot.is_expected = ahead;
  slot.has_failed = false;
  std::byte* data = slot.matrix[0].data;
  for (int which = 0; which < 3; ++which) {
    const Matrix& w = matrix(layer, expert, which);
    slot.matrix[which] = {data, w.format, w.rows, w.cols};
    slot.pieces += num_pieces(w);
    data += aligned_packed_bytes(w);
  }
  slot_of(layer, expert) = index;
  ++held_[static_cast<size_t>(layer)];
  (ahead ? ahead_ : urgent_).push_back(index);
  if (ahead)
    ++traffic_.expected;
  else
    ++loading_, traffic_.needed_bytes += static_cast<double>(expert_bytes(layer));
  work_.notify_all();
  return true;
}

void ExpertCache::start_pending() {
  while (!pending_.empty() && start(layer_, pending_.back(), false, clock_ + 1)) pending_.pop_back();
}

/// Gives up what was expected of the pass's layer, was not asked for, and no reader has begun with.
void ExpertCache::drop_unwanted() {
  std::erase_if(ahead_, [&](int32_t index) {
    const Slot& slot = slots_[static_cast<size_t>(index)];
    if (slot.layer != layer_ || slot.next_piece > 0) return false;
    detach(index);
    free_.push_back(index);
    --traffic_.expected;
    return true;
  });
}

/// The pass waits for an expert that is being read or waits to be.
void ExpertCache::hasten(int32_t index) {
  const Slot& slot = slots_[static_cast<size_t>(index)];
  ++loading_;
  if (slot.next_piece == slot.pieces) return;
  std::erase(ahead_, index);
  std::erase(urgent_, index);
  urgent_.push_back(index);
}

void ExpertCache::begin(const MoeWeights& layer, std::span<const int32_t> experts) {
  const std::lock_guard lock(mutex_);
  abandon();
  layer_ = layer_index_.at(&layer);
  is_used_[static_cast<size_t>(layer_)] = true;
  for (const int32_t e : experts) {
    const int32_t index = slot_of(layer_, e);
    ++traffic_.asked;
    if (index < 0) {
      pending_.push_back(e);
      continue;
    }
    Slot& slot = slots_[static_cast<size_t>(index)];
    slot.is_wanted = true;
    slot.used = ++clock_;
    if (slot.is_expected) traffic_.needed_bytes += static_cast<double>(expert_bytes(layer_));
    ++(slot.is_expected || slot.done < slot.pieces ? traffic_.foreseen : traffic_.found);
    if (slot.done < slot.pieces) hasten(index);
  }
  drop_unwanted();
  for (const int32_t index : slot_of_[static_cast<size_t>(layer_)])
    if (index >= 0) slots_[static_cast<size_t>(index)].is_expected = false;
  left_ = static_cast<int64_t>(experts.size());
  std::reverse(pending_.begin(), pending_.end());
  start_pending();
}

/// No pass needs anything any more.
void ExpertCache::abandon() {
  for (Slot& slot : slots_) slot.is_wanted = false;
  pending_.clear();
  given_.clear();
  given_matrices_.clear();
  loading_ = left_ = 0;
  error_ = nullptr;
}

std::span<const int32_t> ExpertCache::next() {
  std::unique_lock lock(mutex_);
  for (const int32_t e : given_) slots_[static_cast<size_t>(slot_of(layer_, e))].is_wanted = false;
  given_.clear();
  given_matrices_.clear();
  while (left_ > 0) {
    if (error_) {
      const std::exception_ptr error = error_;
      abandon();
      std::rethrow_exception(error);
    }
    start_pending();
    for (const int32_t index : slot_of_[static_cast<size_t>(layer_)]) {
      if (index < 0) continue;
      const Slot& slot = slots_[static_cast<size_t>(index)];
      if (!slot.is_wanted || slot.done < slot.pieces) continue;
      given_.push_back(slot.expert);
      for (int which = 0; which < 3; ++which)
        given_matrices_.emplace(matrix(layer_, slot.expert, which).data, slot.matrix[which]);
    }
    if (!given_.empty()) break;
    const double begin = now();
    ready_.wait(lock);
    traffic_.wait_seconds += now() - begin;
  }
  left_ -= static_cast<int64_t>(given_.size());
  return given_;
}

const PackedMatrix& ExpertCache::packed(const Matrix& w) const { return given_matrices_.at(w.data); }

void ExpertCache::expect(const MoeWeights& layer, std::span<const int32_t> experts) {
  const std::lock_guard lock(mutex_);
  const int32_t l = layer_index_.at(&layer);
  const uint64_t before = clock_ + 1;
  is_used_[static_cast<size_t>(l)] = true;
  for (const int32_t e : experts)
    if (const int32_t index = slot_of(l, e); index >= 0) slots_[static_cast<size_t>(index)].used = ++clock_;
  for (const int32_t e : experts)
    if (slot_of(l, e) < 0 && !start(l, e, true, before)) break;
}

bool ExpertCache::holds(const MoeWeights& layer, int32_t expert) {
  const std::lock_guard lock(mutex_);
  const int32_t index = slot_of(layer_index_.at(&layer), expert);
  return index >= 0 && slots_[static_cast<size_t>(index)].done == slots_[static_cast<size_t>(index)].pieces;
}

ExpertTraffic ExpertCache::traffic() {
  const std::lock_guard lock(mutex_);
  ExpertTraffic t = traffic_;
  if (active_ > 0) t.read_seconds += now() - active_since_;
  return t;
}

/// The next piece to read, first of what a pass waits for; there is one.
ExpertCache::Piece ExpertCache::next_piece(int32_t* index) {
  std::deque<int32_t>& queue = urgent_.empty() ? ahead_ : urgent_;
  *index = queue.front();
  Slot& slot = slots_[static_cast<size_t>(*index)];
  const Piece p = piece(slot, slot.next_piece++);
  if (slot.next_piece == slot.pieces) queue.pop_front();
  return p;
}

void ExpertCache::read_piece(const Piece& p, Stream& s, std::span<std::byte> buffer) const {
  size_t file = 0;
  while (!mappings_[file].contains(p.rows.data)) ++file;
  const uint64_t offset =
      static_cast<uint64_t>(static_cast<const std::byte*>(p.rows.data) - mappings_[file].bytes().data());
  const std::span<const std::byte> bytes = files_[file].read(offset, static_cast<size_t>(file_bytes(p.rows)), buffer);
  Matrix rows = p.rows;
  rows.data = const_cast<std::byte*>(bytes.data());
  pack_matrix(s, p.out, rows);
}

void ExpertCache::read_loop(Stream& s, std::span<std::byte> buffer) {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [&] { return stop_ || !urgent_.empty() || !ahead_.empty(); });
    if (stop_) return;
    int32_t index;
    const Piece p = next_piece(&index);
    if (active_++ == 0) active_since_ = now();
    lock.unlock();
    std::exception_ptr error;
    try {
      read_piece(p, s, buffer);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (--active_ == 0) traffic_.read_seconds += now() - active_since_;
    finish_piece(index, static_cast<double>(file_bytes(p.rows)), error);
  }
}

void ExpertCache::finish_piece(int32_t index, double bytes, const std::exception_ptr& error) {
  Slot& slot = slots_[static_cast<size_t>(index)];
  ++slot.done;
  traffic_.bytes += error ? 0 : bytes;
  if (error && !slot.has_failed) {
    if (slot.is_wanted) error_ = error;
    detach(index);
    slot.has_failed = true;
    slot.pieces = slot.next_piece;  // no more of it
    std::erase(urgent_, index);
    std::erase(ahead_, index);
  }
  if (slot.done < slot.pieces) return;
  if (slot.has_failed)
    free_.push_back(index);
  else if (slot.is_wanted)
    --loading_;
  ready_.notify_all();
}

}  // namespace sluice
