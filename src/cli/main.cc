// sluice: one program, one subcommand per task. Exit codes: 0 done, 2 the user's mistake, 70 a broken invariant of ours.
#include <cstdio>
#include <exception>
#include <string>

#include "base/error.h"
#include "cli/commands.h"

namespace {

constexpr int kUserError = 2, kInternalError = 70;

/// Error texts are one line on stderr, whatever they quote.
void print_error(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 32) c = ' ';
  fmt::print(stderr, "sluice: {}\n", text);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains, evaluates and runs DeepSeek-V3-architecture language models.", "sluice");
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.require_subcommand(1);
  app.footer("Example: sluice train --data book.txt --size tiny --time 2m --out run");
  sluice::add_train_command(app);
  sluice::add_generate_command(app);
  sluice::add_chat_command(app);
  sluice::add_score_command(app);
  sluice::add_init_command(app);
  sluice::add_inspect_command(app);
  sluice::add_tokenizer_command(app);
  sluice::add_data_command(app);
  sluice::add_bench_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return e.get_exit_code() == 0 ? app.exit(e) : (app.exit(e), kUserError);
  } catch (const sluice::Error& e) {
    print_error(e.what());
    return kUserError;
  } catch (const std::exception& e) {
    print_error(e.what());
    return kInternalError;
  }
  return 0;
}
