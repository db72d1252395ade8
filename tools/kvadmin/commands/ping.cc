// kvadmin ping: is the server there, and how long does an answer take.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct PingOptions {
  int count = 3;
  int interval_ms = 200;
};

Result<ExitCode> Ping(const Globals& globals, const PingOptions& options) {
  using Clock = std::chrono::steady_clock;
  Client client(globals.target);
  std::vector<double> times_ms;
  for (int i = 0; i < options.count; ++i) {
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(options.interval_ms));
    api::HelloReply reply;
    auto begin = Clock::now();
    RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
      kv.hello(reply, context, api::HelloRequest());
    }));
    times_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
    if (!globals.json) {
      fmt::print("{}: {:.3f} ms{}\n", globals.target.address, times_ms.back(), i == 0 ? " (with the connection)" : "");
    }
  }
  if (globals.json) {
    PrintJson(Json{{"server", globals.target.address},
                   {"ms", times_ms},
                   {"min_ms", *std::min_element(times_ms.begin(), times_ms.end())}});
  }
  return kExitOk;
}

}  // namespace

void AddPingCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<PingOptions>();
  CLI::App* command = app.add_subcommand("ping", "Ask the server for a sign of life");
  command->add_option("--count", o->count, "How often")->capture_default_str()->check(CLI::Range(1, 1'000'000));
  command->add_option(Spell("--interval-ms"), o->interval_ms, "Pause between two")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->footer(
      "Examples:\n  kvadmin ping\n  kvadmin --server 10.0.0.7:7420 ping --count 1\n"
      "Exit codes: 0 it answered; 3 it did not.");
  OnChosen(command, globals, [=] { return Ping(*globals, *o); });
}

}  // namespace pando::admin
