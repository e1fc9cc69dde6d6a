#include "cli/text_pieces.h"

#include <algorithm>
#include <memory>
#include <span>

#include "cli/work_line.h"

namespace sluice {
namespace {

/// Feeds `ids`, and computes the logits of all of them, few at a time, for what enters the head.
void feed_all(Session& session, std::span<const int32_t> ids) {
  constexpr size_t kRows = 256;
  for (size_t at = 0; at < ids.size(); at += kRows) {
    const auto part = ids.subspan(at, std::min(kRows, ids.size() - at));
    session.feed(part, static_cast<int64_t>(part.size()));
  }
}

}  // namespace

int64_t read_in_pieces(const Inference& inference, const std::vector<int32_t>& ids, const std::string& command) {
  const Tokenizer& tokenizer = inference.need_tokenizer();
  const std::vector<int32_t> begin(tokenizer.add_bos() ? 1 : 0, tokenizer.bos_id());
  if (inference.engine->context() < 2) fail("--ctx: expected at least 2 tokens, found 1");
  const size_t most = static_cast<size_t>(inference.engine->context()) - begin.size();
  const std::unique_ptr<Session> session = open_session(inference, Draft::on);
  WorkLine line(command, "tokens", static_cast<int64_t>(ids.size()));
  int64_t pieces = 0;
  for (size_t at = 0; at < ids.size(); at += most, ++pieces) {
    std::vector<int32_t> piece = begin;
    piece.insert(piece.end(), ids.begin() + static_cast<int64_t>(at),
                 ids.begin() + static_cast<int64_t>(std::min(ids.size(), at + most)));
    session->truncate(0);
    if (session->drafts() && piece.size() > 1) {  // the MTP module needs a token after each
      const int32_t last = piece.back();
      piece.pop_back();
      feed_all(*session, piece);
      session->draft(last);
    } else {
      feed_all(*session, piece);
    }
    line.add(static_cast<int64_t>(piece.size()));
  }
  return pieces;
}

}  // namespace sluice
