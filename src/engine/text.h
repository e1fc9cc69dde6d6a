// One request on its way through the scheduler: its sequence, and how its tokens are chosen and given away. Used by the
// scheduler's thread, but for take(), which several texts may do at the same time.
#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/prefix_cache.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/session.h"

namespace sluice {

/// What a text in the queue waits for besides its turn.
struct QueueState {
  uint64_t compared = 0;             // its prompt was compared with those of all texts up to this join
  uint64_t computing = 0;            // the text that computes what both begin with; 0: none
  int64_t common_pages = 0;          // of the two
  std::optional<bool> is_stored;     // whether it has pages in the store that are not in memory
  bool reading_begun = false;        // of these
  std::optional<PrefixKey> reading;  // the last of them
};

class Text {
 public:
  using Clock = std::chrono::steady_clock;

  /// The request, of the time `submitted`, has been checked.
  Text(uint64_t id, Request request, Engine& engine, Clock::time_point submitted);

  uint64_t id() const { return id_; }
  const Request& request() const { return request_; }
  const GenerateOptions& options() const { return request_.options; }
  RequestResult& result() { return result_; }
  Session& session() { return session_; }
  const Session& session() const { return session_; }
  QueueState& queued() { return queued_; }
  /// Which join to the running texts was its last; from 1.
  uint64_t joined() const { return joined_; }

  /// Prompt and text; what is not fed yet comes after session().length().
  std::span<const int32_t> ids() const { return ids_; }
  int64_t prompt_length() const { return static_cast<int64_t>(request_.prompt.size()); }
  int64_t tokens() const { return static_cast<int64_t>(ids_.size()) - prompt_length(); }
  std::span<const int32_t> unfed() const { return ids().subspan(static_cast<size_t>(session_.length())); }
  bool is_in_prompt() const { return session_.length() < prompt_length(); }
  /// The beginning of the prompt that need not be fed if others have: a row is left to choose the next token by.
  std::span<const int32_t> shareable() const;

  /// What the MTP module proposes for the token after the last one of ids(); nothing where that cannot be said.
  std::vector<int32_t> draft();

  /// `logits` of the last rows that were fed, of which the first is at position `begin`; `drafts` were fed after ids().
  /// Chooses the next token, and those after it as long as drafts are right; ends where the text does. Throws nothing.
  void take(const Tensor& logits, int64_t begin, std::span<const int32_t> drafts);
  /// Whether it needs nothing of the logits of its next token but a draw by temperature alone, and which.
  std::optional<Draw> plain_draw() const;
  /// take() of a token that was drawn so, from the logits of the row at position `begin`.
  void take_drawn(int32_t id, int64_t begin);
  /// Drafts that the last take() found to be right, before deliver().
  int64_t newly_accepted() const { return newly_accepted_; }
  /// Forgets drafts that were wrong, and gives away what take() found.
  void deliver();

  /// Whether it is over, though the receiver may not know yet.
  bool has_ended() const { return has_ended_; }
  /// Ends it, if it has not ended.
  void end(Finish finish, std::string error = {});
  /// Tells the receiver that it is over.
  void finish();

  /// It runs from now on, with these pages of its prompt, whose references it takes over. `number`: of the join.
  void join(std::span<const int32_t> cached_pages, uint64_t number);
  /// Shares the full pages of its prompt that were fed.
  void publish(PrefixCache& cache, KvCache& pages);
  /// Gives up its pages.
  void leave();
  /// How many of the `rows` that were fed last had been fed before it left.
  int64_t fed_before(int64_t rows) const;

 private:
  struct Event {
    int32_t id;
    TokenLogprobs logprobs;
  };
  std::span<const uint64_t> allowed();
  void choose_all(const Tensor& logits, int64_t begin, std::span<const int32_t> drafts);
  bool choose(int32_t& id, const Tensor& logits, int64_t position);
  bool append(int32_t id, const Tensor& logits);
  void end_by_exception();
  void echo(const Tensor& logits, int64_t position);
  TokenLogprobs logprobs(const Tensor& logits, int32_t id, int64_t top) const;
  double seconds_since_submission() const;

  const uint64_t id_;
  Request request_;
  Engine& engine_;
  const int64_t limit_;  // ids from here on are never chosen
  Session session_;
  TokenSampler sampler_;
  std::vector<int32_t> ids_;
  std::optional<int64_t> kept_;  // tokens fed that are right, after take()
  int64_t newly_accepted_ = 0;   // drafts
  int64_t furthest_ = 0;         // tokens fed before it left
  int64_t published_pages_ = 0;  // in the prefix cache
  int64_t echoed_ = 0;           // position up to which the prompt's log probabilities are known
  std::vector<uint64_t> mask_;
  bool mask_is_current_ = false;
  std::vector<TokenLogprobs> prompt_logprobs_;  // to be given away
  std::vector<Event> events_;                   // the same of tokens
  bool has_ended_ = false, has_run_ = false;
  uint64_t joined_ = 0;
  QueueState queued_;
  RequestResult result_;
  const Clock::time_point submitted_;
};

}  // namespace sluice
