// The queue of the scheduler: whose request comes next. Virtual token counters (arXiv:2401.00588): a client's counter
// is the tokens it has been served, and the least of them comes first.
#pragma once
#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/text.h"

namespace sluice {

class FairQueue {
 public:
  void push(std::unique_ptr<Text> text);

  /// The text whose turn it is among those that `may_go`, as taken out of the queue; null when there is none. It counts
  /// as its client's until over().
  template <class F>
  std::unique_ptr<Text> pop(F&& may_go) {
    for (Client* client : in_order())
      for (auto t = client->waiting.begin(); t != client->waiting.end(); ++t)
        if (may_go(**t)) return take(*client, t);
    return nullptr;
  }
  /// A text that pop() gave goes back to the head of its client's.
  void push_back_in(std::unique_ptr<Text> text);

  /// Takes all texts out that are `gone`; over() is the caller's to say of each.
  template <class F>
  std::vector<std::unique_ptr<Text>> remove_if(F&& gone) {
    std::vector<std::unique_ptr<Text>> removed;
    for (auto& [name, client] : clients_)
      for (auto t = client.waiting.begin(); t != client.waiting.end();) {
        const auto here = t++;
        if (gone(**here)) removed.push_back(take(client, here));
      }
    return removed;
  }

  /// The client was served `tokens`.
  void charge(const std::string& client, int64_t tokens);
  /// A text of the client is over.
  void over(const std::string& client);

  int64_t size() const { return size_; }

 private:
  using Waiting = std::list<std::unique_ptr<Text>>;
  struct Client {
    int64_t served = 0, texts = 0;  // texts: waiting or running
    Waiting waiting;
  };
  std::vector<Client*> in_order();
  std::unique_ptr<Text> take(Client& client, Waiting::iterator place);
  int64_t least_served() const;

  /// Clients without texts are remembered up to this number.
  static constexpr size_t kMostClients = 4096;

  std::map<std::string, Client> clients_;
  int64_t size_ = 0;
};

}  // namespace sluice
