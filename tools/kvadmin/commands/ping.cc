// kvadmin ping: measures how long the server takes to answer.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "tools/common/interrupts.h"
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
    if (i > 0 && !tools::Interrupts::Sleep(options.interval_ms)) return tools::Interrupts::Check();
    auto begin = Clock::now();
    RETURN_IF_ERROR(client.Call(Client::Repeat::kSafe, &api::KvIf::hello, api::HelloRequest()).status());
    times_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
    if (!globals.json) {
      tools::Print("{}: {:.3f} ms{}\n", client.at(), times_ms.back(), i == 0 ? " (including the time to connect)" : "");
      RETURN_IF_ERROR(tools::FlushOutput());  // show each answer as it arrives
    }
  }
  if (globals.json) {
    PrintJson(Json{
        {"server", client.at()}, {"ms", times_ms}, {"min_ms", *std::min_element(times_ms.begin(), times_ms.end())}});
  }
  return kExitOk;
}

}  // namespace

void AddPingCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<PingOptions>();
  tools::Command command = app.Add("ping", "Measure how long the server takes to answer");
  command.Number("--count", &o->count, "Number of requests", 1, 1'000'000).ShowDefault();
  command.Number("--interval-ms", &o->interval_ms, "Pause between two requests, in ms", 0).ShowDefault();
  command.Footer(
      "Examples:\n  kvadmin ping\n  kvadmin --server 10.0.0.7:7420 ping --count 1\n"
      "Exit codes: 0 it answered; 3 it did not.");
  OnChosen(command, globals, [=] { return Ping(*globals, *o); });
}

}  // namespace pando::admin
