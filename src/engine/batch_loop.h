// The passes of the scheduler (engine/scheduler.h): which texts run, what of them goes into the next pass, whose pages
// go when there are too few. One thread.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/draft_switch.h"
#include "engine/expert_counter.h"
#include "engine/fair_queue.h"
#include "engine/prefix_cache.h"
#include "engine/prompt_pace.h"
#include "engine/scheduler.h"

namespace sluice {

class BatchLoop {
 public:
  BatchLoop(Engine& engine, const SchedulerOptions& options);
  ~BatchLoop();
  BatchLoop(const BatchLoop&) = delete;
  BatchLoop& operator=(const BatchLoop&) = delete;

  void add(std::unique_ptr<Text> text);

  /// Ends the texts for which `gone(text)` says how, as an optional Finish.
  template <class F>
  void end_if(F&& gone) {
    for (auto* texts : {&running_, &preempted_})
      for (auto& t : *texts)
        if (const std::optional<Finish> finish = gone(*t)) t->end(*finish);
    for (auto& t : queue_.remove_if([&](const Text& text) { return gone(text).has_value(); })) {
      t->end(*gone(*t));
      finish(*t);
    }
    remove_ended();
  }

  /// One pass. False when there was nothing to do. Throws nothing.
  bool step();

  /// Of now, without expert_load.
  const SchedulerStats& stats();
  /// How often experts were chosen. Any thread.
  std::vector<ExpertLoad> expert_load() const { return experts_.load(); }
  int64_t waiting() const { return queue_.size() + static_cast<int64_t>(preempted_.size()); }

 private:
  using Texts = std::deque<std::unique_ptr<Text>>;
  struct Part {
    Text* text;
    std::vector<int32_t> ids;     // what is fed, drafts included
    std::vector<int32_t> drafts;  // the last of them
    RowKind kind;
    int64_t rows;   // logits wanted
    int64_t begin;  // position of the first of these
  };

  void admit();
  bool must_wait(Text& text);
  bool is_being_computed(Text& text) const;
  bool fits(const Text& text, int64_t cached, int64_t idle) const;
  bool join(std::unique_ptr<Text> text);
  bool make_room(Text& text, int64_t tokens);
  void preempt_last();

  void plan();
  void plan_texts();
  void plan_prompts(int64_t rows);
  void plan_part(Text& text, int64_t tokens);
  std::vector<Text*> prompts_in_turn();
  std::vector<int32_t> drafts(Text& text);
  bool wants_module(const Text& text) const;
  void start_drafting(Text& text);
  int64_t module_begin(const Text& text) const;

  void run();
  bool draw_on_gpu(std::span<const BatchItem> items);
  void choose();
  void account(double seconds);
  void deliver();
  void fail_all(const char* error);
  void remove_ended();
  void finish(Text& text);

  Engine& engine_;
  const SchedulerOptions options_;
  std::unique_ptr<PrefixStore> store_;  // or none
  PrefixCache prefixes_;
  FairQueue queue_;
  Texts preempted_;  // those that joined first are first
  Texts running_;    // in the order in which they joined
  std::vector<Part> parts_;
  std::vector<float> logits_;
  PromptPace pace_;
  DraftSwitch draft_switch_;
  SchedulerStats stats_;
  uint64_t joins_ = 0;
  ExpertCounter experts_;
};

}  // namespace sluice
