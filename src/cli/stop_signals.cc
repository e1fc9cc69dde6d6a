#include "cli/stop_signals.h"

#include <atomic>
#include <csignal>
#include <thread>

namespace sluice {
namespace {

std::atomic<bool> requested = false;

void wait_for_signals(sigset_t set) {
  int signal = 0;
  sigwait(&set, &signal);
  requested = true;
  requested.notify_all();
  sigwait(&set, &signal);
  std::signal(signal, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  std::raise(signal);
}

}  // namespace

void watch_stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread(wait_for_signals, set).detach();
}

bool stop_requested() { return requested; }

void wait_for_stop() { requested.wait(false); }

}  // namespace sluice
