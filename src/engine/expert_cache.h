// Routed experts of a model that is larger than memory: a bounded number of them, in the machine's layout, and threads
// that read the others from the model's files when routing asks for them.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/arena.h"
#include "base/direct_file.h"
#include "model/model.h"
#include "ops/packed.h"

namespace sluice {

/// The layers with routed experts in the order of a pass, those of MTP modules last.
std::vector<const MoeWeights*> expert_layers(const ModelWeights& w);

/// What an ExpertCache has done since it was made. Experts count once per layer and pass.
struct ExpertTraffic {
  int64_t asked = 0;        // experts that passes asked for
  int64_t found = 0;        // of these, those that were there
  int64_t foreseen = 0;     // and those that were being read or had been read because they were expected
  int64_t expected = 0;     // experts read because they were expected
  double bytes = 0;         // read, of the experts alone
  double needed_bytes = 0;  // of these, for experts that a pass asked for
  double read_seconds = 0;  // while anything was being read
  double wait_seconds = 0;  // of passes, for experts
};

/// One thread runs passes and calls this; reader threads of the cache's own fill places with experts. Every layer has a
/// right to the same share of the places; a layer over its share gives up its own least recently used expert first,
/// because all others are needed sooner.
class ExpertCache {
 public:
  /// Threads that read: enough to keep a disk busy while some of them bring experts into the machine's layout.
  static constexpr int kReaders = 4;

  /// Memory for one expert of a layer, and the readers' of a model.
  static size_t slot_bytes(const MoeWeights& layer);
  static size_t reading_bytes(const Model& m);

  /// `m` must outlive the cache; its experts lie in m.mappings. 1 <= slots. Throws Error when a file cannot be opened.
  ExpertCache(const Model& m, int64_t slots);
  ~ExpertCache();
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  /// A pass is at `layer` and needs `experts` (distinct); all that are not here are asked for. What an earlier call
  /// asked for is done with.
  void begin(const MoeWeights& layer, std::span<const int32_t> experts);
  /// Those that are ready now; waits while none are. Each is given out once, empty: all have been. Valid until the next
  /// call, which may evict them. Throws Error when one cannot be read.
  std::span<const int32_t> next();
  /// A matrix of an expert that next() has just given out.
  const PackedMatrix& packed(const Matrix& w) const;
  /// A pass is likely to need `experts` of `layer` next: they are read when nothing else is to be.
  void expect(const MoeWeights& layer, std::span<const int32_t> experts);

  /// Whether an expert is here.
  bool holds(const MoeWeights& layer, int32_t expert);
  ExpertTraffic traffic();

 private:
  struct Slot {
    int32_t layer = -1, expert = -1;
    int64_t next_piece = 0, pieces = 0, done = 0;  // to hand to a reader; all; read
    uint64_t used = 0;                             // when it was asked for or expected
    bool is_wanted = false;                        // by the pass: not evicted
    bool is_expected = false;                      // read for a layer that a pass has not reached yet
    bool has_failed = false;
    PackedMatrix matrix[3];
  };
  /// Rows of one matrix of an expert, in a file.
  struct Piece {
    Matrix rows;
    PackedMatrix out;
  };

  const Matrix& matrix(int32_t layer, int32_t expert, int which) const;
  Piece piece(const Slot& slot, int64_t index) const;
  int32_t& slot_of(int32_t layer, int32_t expert) {
    return slot_of_[static_cast<size_t>(layer)][static_cast<size_t>(expert)];
  }
  int64_t expert_bytes(int32_t layer) const;
  int32_t take(int32_t layer, bool ahead, uint64_t before);
  int32_t oldest(int32_t layer, uint64_t before) const;
  void detach(int32_t slot);
  bool start(int32_t layer, int32_t expert, bool ahead, uint64_t before);
  void start_pending();
  void drop_unwanted();
  void abandon();
  void hasten(int32_t slot);
  Piece next_piece(int32_t* slot);
  void read_piece(const Piece& p, Stream& s, std::span<std::byte> buffer) const;
  void finish_piece(int32_t slot, double bytes, const std::exception_ptr& error);
  void read_loop(Stream& s, std::span<std::byte> buffer);
  void stop();

  const std::vector<const MoeWeights*> layers_;
  std::unordered_map<const MoeWeights*, int32_t> layer_index_;
  std::span<const MappedFile> mappings_;
  std::vector<DirectFile> files_;  // of the mappings
  size_t slot_bytes_, buffer_bytes_;
  Arena memory_, buffers_;
  std::deque<Stream> reader_streams_;

  std::mutex mutex_;  // of everything below
  std::condition_variable work_, ready_;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_;
  std::vector<std::vector<int32_t>> slot_of_;  // by layer and expert; -1: not here
  std::vector<int64_t> held_;                  // slots of each layer
  std::vector<bool> is_used_;                  // layers that passes run
  std::deque<int32_t> urgent_, ahead_;         // slots with pieces to hand out
  std::vector<int32_t> pending_;               // experts of the pass that have no slot yet, last first
  int32_t layer_ = -1;                         // of the pass
  int64_t loading_ = 0, left_ = 0;             // experts of the pass: being read; not given out yet
  uint64_t clock_ = 0;
  int active_ = 0;  // readers at work
  double active_since_ = 0;
  std::exception_ptr error_;
  bool stop_ = false;
  ExpertTraffic traffic_;

  std::vector<int32_t> given_;  // what next() returned
  std::unordered_map<const void*, PackedMatrix> given_matrices_;
  std::vector<std::thread> readers_;
};

}  // namespace sluice
