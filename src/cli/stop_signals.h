// SIGINT and SIGTERM as a question instead of an interruption.
#pragma once

namespace sluice {

/// From now on SIGINT and SIGTERM are blocked in this thread and in all that it starts, and a thread of its own waits
/// for them: the first sets a flag, the second ends the program as if it had not been caught. No handler ever runs on a
/// computing thread: the matrix library points the stack register into its heap buffers while it multiplies, and a
/// handler's frame would be written over them. Call once, before any thread is started.
void watch_stop_signals();

/// Has one of them come?
bool stop_requested();

/// Returns when one of them has come.
void wait_for_stop();

}  // namespace sluice
