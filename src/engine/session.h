// One sequence of an engine: its tokens, its pages of the cache, and the MTP module's state.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.h"

namespace sluice {

class Session;

/// Tokens for one of the sessions of feed_batch().
struct BatchItem {
  Session* session;
  std::span<const int32_t> ids;
  RowKind kind = RowKind::text;
  int64_t rows = 1;  // logits wanted of so many of the last of them
};

/// Appends tokens to several sessions of `engine` in one pass: all weights are read once. At most
/// engine.pass_rows() tokens, text before prompts. `logits` becomes (sum of the items' rows, V). Results are those
/// of Session::feed(). Throws Error as that does; the sequences are then as before.
void feed_batch(Engine& engine, std::span<const BatchItem> items, std::vector<float>& logits);

/// The same on a GPU for one token of text of each session, none of which drafts: ids[i] becomes the token after it,
/// drawn there (Engine::draw).
void feed_batch(Engine& engine, std::span<const BatchItem> items, std::span<const Draw> draws, std::span<int32_t> ids);

class Session {
 public:
  /// An empty sequence. `draft`: keep what draft() needs; the engine must have an MTP module. The engine must outlive
  /// it.
  Session(Engine& engine, bool draft);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Engine& engine() { return engine_; }
  bool drafts() const { return draft_; }
  int64_t length() const { return static_cast<int64_t>(ids_.size()); }
  /// Tokens that still fit.
  int64_t room() const { return engine_.context() - length(); }
  /// All tokens fed.
  std::span<const int32_t> ids() const { return ids_; }

  /// Appends tokens. Returns the logits (rows, V) f32 of the last `rows` of them, 0 <= rows <= ids.size(): row i
  /// predicts the token after it. Owned by the session, valid until its next call. Throws Error when the context is
  /// full or an id is outside the vocabulary; the sequence is then as before.
  Tensor feed(std::span<const int32_t> ids, int64_t rows, RowKind kind = RowKind::prompt);

  /// Begins an empty sequence with tokens whose rows others have computed as a prompt's: `pages` is full of `ids`. The
  /// session takes over the caller's references to them and never writes to them; it does not draft.
  void adopt(std::span<const int32_t> ids, std::span<const int32_t> pages);

  /// Takes pages for `tokens` more than it holds, which are then fed without asking the cache for any. Throws Error
  /// when the cache has too few; keeps what it got.
  void reserve_pages(int64_t tokens);

  /// The pages of its tokens, and those reserved.
  std::span<const int32_t> pages() const { return pages_; }

  /// Uses `page`, whose rows have the same bits, in place of its own page `index`; takes over the caller's reference.
  void share(size_t index, int32_t page);

  /// Forgets all tokens from `length` on. The MTP entry of the last one kept still reflects the token that followed it:
  /// unless that one is fed again, the next drafts are slightly worse (never the text).
  void truncate(int64_t length);

  /// Prepares for a sequence that begins with `ids` (not empty): keeps the longest common beginning, but leaves at
  /// least one token of `ids` to be fed. Returns the number of tokens kept.
  int64_t rewind(std::span<const int32_t> ids);

  /// Logits (rows, Engine::draft_vocab()) of the MTP module, given that `next` follows the tokens fed: the last row
  /// predicts the token after `next`, the row before it the token after ids().back(), and so on; rows <= positions the
  /// module has not run on yet. Runs it on all of these, so that its cache has no holes (specification 4.3). Owned as
  /// feed()'s, in other memory.
  Tensor draft(int32_t next, int64_t rows = 1);

  /// Positions the MTP module has not run on yet: most rows of draft().
  int64_t draft_rows() const { return draft_ ? hidden_rows() : 0; }

  /// draft() from here on, where the length is a multiple of kPageTokens and the engine has an MTP module: the module
  /// does not see the tokens before, so that nothing of them need be kept or read again, and adopted pages do not
  /// matter. It sees distances only, so its positions may begin anywhere. The hidden state it starts from knows all of
  /// them.
  void start_drafting();

  /// No draft() from now on: stops keeping hidden states for it.
  void stop_drafting();

 private:
  friend void feed_batch(Engine& engine, std::span<const BatchItem> items, std::vector<float>& logits);
  friend void feed_batch(Engine& engine, std::span<const BatchItem> items, std::span<const Draw> draws,
                         std::span<int32_t> ids);
  static void feed_all(Engine& engine, std::span<const BatchItem> items, std::vector<float>& logits);
  void append(std::span<const int32_t> ids, RowKind kind);
  void reserve(int64_t tokens);
  void run_mtp(const Tensor& z_TD, std::span<const int32_t> next_ids, int64_t begin, RowKind kind);
  int64_t hidden_rows() const;
  Tensor hidden(int64_t begin, int64_t rows);

  Engine& engine_;
  bool draft_;
  std::vector<int32_t> ids_, pages_;
  int64_t prompt_end_ = 0;     // positions from here on were fed as text
  std::vector<float> hidden_;  // after the final norm, rows of positions [hidden_begin_, length())
  int64_t hidden_begin_ = 0;   // when drafting: the MTP module has run on positions [draft_begin_, hidden_begin_)
  int64_t draft_begin_ = 0;    // a multiple of kPageTokens: position 0 of the MTP module
  std::vector<float> logits_, draft_logits_;
};

}  // namespace sluice
