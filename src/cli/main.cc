// sluice: one program, one subcommand per task. Exit codes: 0 done, 2 the user's mistake, 70 a broken invariant of
// ours, 71 another rank that failed.
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <system_error>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "parallel/communicator.h"

namespace {

/// Says why the command failed, on all ranks where there are several: one line on stderr, whatever it quotes.
int failed(int exit_code, std::string why) {
  for (char& c : why)
    if (static_cast<unsigned char>(c) < 32) c = ' ';
  fmt::print(stderr, "sluice: {}{}\n", sluice::rank_prefix(), why);
  sluice::abort_all_ranks(exit_code, why);
  return exit_code;
}

/// Exit code of the command that is given.
int run(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout)) sluice::fail("standard output: cannot write");
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);
    const bool unknown = argc > 1 && app.get_subcommands().empty() && e.get_name() == "RequiredError";
    return failed(sluice::kUserErrorExit,
                  unknown ? fmt::format("{}: expected a command of sluice --help", argv[1]) : std::string(e.what()));
  } catch (const sluice::Error& e) {
    return failed(sluice::kUserErrorExit, e.what());
  } catch (const std::system_error& e) {  // of std::filesystem and of threads: what the machine refused
    return failed(sluice::kUserErrorExit, e.what());
  } catch (const std::bad_alloc&) {
    return failed(sluice::kUserErrorExit, "memory: the machine has no more");
  } catch (const std::exception& e) {
    return failed(sluice::kBugExit, e.what());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file over the size limit becomes a failed write, which is reported
  CLI::App app("Trains, evaluates and runs DeepSeek-V3-architecture language models.", "sluice");
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.require_subcommand(1);
  app.footer("Example: sluice train --data book.txt --size tiny --time 2m --out run");
  sluice::add_train_command(app);
  sluice::add_generate_command(app);
  sluice::add_chat_command(app);
  sluice::add_serve_command(app);
  sluice::add_score_command(app);
  sluice::add_compare_command(app);
  sluice::add_init_command(app);
  sluice::add_quantize_command(app);
  sluice::add_convert_command(app);
  sluice::add_imatrix_command(app);
  sluice::add_inspect_command(app);
  sluice::add_tokenizer_command(app);
  sluice::add_data_command(app);
  sluice::add_balance_command(app);
  sluice::add_bench_command(app);
  sluice::add_plan_command(app);
  return run(app, argc, argv);
}
