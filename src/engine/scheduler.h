// Continuous batching: many requests, one engine. Requests are submitted from any thread; one thread makes passes over
// the engine. Before each pass requests join and leave; in a pass every running text gets its next token, and prompts
// advance by a chunk beside them. The text of a request depends on prompt, options and seed alone, exactly as
// generate() writes it: not on other requests, chunks, the prefix cache, drafts or preemption.
//
// Memory. The pages of the KV cache are all there is. A request joins when its prompt (what the prefix cache does not
// hold of it) fits beside what runs; pages for its text are taken one by one. When none is left, cached prefixes that
// nobody uses go first (least recently used), then the request that joined last gives up its pages, goes to the head of
// the queue, and is computed again later: prompt rows as a prompt, text rows as text, hence to the same bits. The
// engine has pages for one sequence as long as the context, so the oldest request always goes on. The alternative, to
// reserve prompt + max_tokens on admission, never computes anything twice, but clients that name no max_tokens may
// write to the end of the context, and a handful of them would fill the cache with pages that are not used.
//
// Fairness (virtual token counters, arXiv:2401.00588): of the clients that have requests waiting, the one that has been
// served the fewest tokens comes first; one that was away begins at the least of those that were not. Among running
// prompts, the shortest rest and the one that joined first take turns.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/expert_counter.h"
#include "engine/request.h"

namespace sluice {

struct SchedulerOptions {
  int64_t max_running = 64;           // most requests in a pass; at most the engine's pass_rows()
  int64_t max_waiting = 256;          // most requests in the queue
  int64_t prompt_tokens = kPassRows;  // most prompt tokens in a pass
  double prompt_seconds = 0.2;        // of a pass beside texts for prompts (five times that without texts)
  fs::path cache_folder;              // where prefixes survive a restart; empty: nowhere
  uint64_t cache_bytes = 4ull << 30;  // most bytes there
};

enum class Submitted : uint8_t {
  accepted,
  too_long,    // prompt has no room in the context
  invalid,     // something in the request is outside its range
  queue_full,  // max_waiting requests wait already
  closed,      // close() was called
};

struct Submission {
  Submitted status = Submitted::accepted;
  uint64_t id = 0;      // for cancel(); from 1
  std::string message;  // one line, where not accepted
};

/// Counters count from the beginning.
struct SchedulerStats {
  int64_t running = 0, waiting = 0;                   // requests
  int64_t pages = 0, pages_used = 0, pages_idle = 0;  // of the KV cache: all; held by requests; cached and held by none
  int64_t prompt_tokens = 0;                          // computed as prompt for the first time, not from the cache
  int64_t text_tokens = 0;                            // given to receivers
  int64_t recomputed_tokens = 0;                      // computed again after preemption
  int64_t cache_queried = 0, cache_hit = 0;           // tokens of prompts that joined; of these, found in the cache
  int64_t disk_hit = 0;                               // of cache_hit, read from cache_folder
  int64_t proposed = 0, accepted = 0;                 // drafts
  int64_t preemptions = 0, passes = 0;
  std::vector<int64_t> finished;        // requests by Finish
  std::vector<ExpertLoad> expert_load;  // layers that have experts, in order
};

class Scheduler {
 public:
  /// `engine` must outlive it; while it lives, nobody else uses the engine, and its observer of routing is this. Throws
  /// Error for options outside their range, and when the cache folder cannot be made or another process uses it.
  Scheduler(Engine& engine, const SchedulerOptions& options);
  /// Ends the thread after its present pass; every request that is not over ends with Finish::cancelled.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Puts a request into the queue. Checks all of it; what is not accepted is not received from. Any thread.
  Submission submit(Request request);

  /// Ends a request at the beginning of the next step, with Finish::cancelled; ids that are over or unknown are
  /// ignored. Any thread.
  void cancel(uint64_t id);

  /// From now on submit() refuses; what was accepted is finished. Any thread.
  void close();

  /// What happened up to the end of the last step. Any thread.
  SchedulerStats stats() const;

  /// Runs steps on a thread of its own until destruction; it sleeps while there is nothing to do.
  void start();

  /// Instead of start(), on the caller's thread: requests leave and join, one pass. False when there was nothing to do.
  /// Errors end the requests they are about, with Finish::failed; none is thrown.
  bool step();

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace sluice
