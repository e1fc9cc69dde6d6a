#include "engine/fair_queue.h"

#include <limits>
#include <utility>

namespace sluice {

/// The least counter of a client with texts; 0 when there is none.
int64_t FairQueue::least_served() const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const auto& [name, client] : clients_)
    if (client.texts > 0) least = std::min(least, client.served);
  return least == std::numeric_limits<int64_t>::max() ? 0 : least;
}

void FairQueue::push(std::unique_ptr<Text> text) {
  if (clients_.size() >= kMostClients) std::erase_if(clients_, [](const auto& c) { return c.second.texts == 0; });
  Client& client = clients_[text->request().client];
  // Nobody saves up turns while it is away.
  if (client.texts == 0) client.served = std::max(client.served, least_served());
  ++client.texts;
  client.waiting.push_back(std::move(text));
  ++size_;
}

void FairQueue::push_back_in(std::unique_ptr<Text> text) {
  clients_.at(text->request().client).waiting.push_front(std::move(text));
  ++size_;
}

std::vector<FairQueue::Client*> FairQueue::in_order() {
  std::vector<Client*> order;
  for (auto& [name, client] : clients_)
    if (!client.waiting.empty()) order.push_back(&client);
  std::sort(order.begin(), order.end(), [](const Client* a, const Client* b) {
    return std::pair(a->served, a->waiting.front()->id()) < std::pair(b->served, b->waiting.front()->id());
  });
  return order;
}

std::unique_ptr<Text> FairQueue::take(Client& client, Waiting::iterator place) {
  std::unique_ptr<Text> text = std::move(*place);
  client.waiting.erase(place);
  --size_;
  return text;
}

void FairQueue::charge(const std::string& client, int64_t tokens) { clients_.at(client).served += tokens; }

void FairQueue::over(const std::string& client) { --clients_.at(client).texts; }

}  // namespace sluice
