// kvadmin count: counts the records of a range.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct CountOptions {
  RangeOptions range;
  Encoding encoding = Encoding::kText;
};

Result<ExitCode> Count(const Globals& globals, const CountOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range, options.encoding));
  api::CountRequest request;
  SetRange(range, &request);
  Client client(globals.target);
  api::CountReply reply;
  RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.count(reply, context, request);
  }));
  if (globals.json) {
    PrintJson(Json{{"count", reply.count}});
  } else {
    tools::Print("{}\n", reply.count);
  }
  return kExitOk;
}

}  // namespace

void AddCountCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<CountOptions>();
  CLI::App* command = app.add_subcommand("count", "Count the records of a range, or of the whole store");
  AddRangeOptions(command, &o->range);
  AddEncodingOptions(command, &o->encoding);
  command->footer(
      "Examples:\n"
      "  kvadmin count\n"
      "  kvadmin count --prefix lib\n"
      "  kvadmin count --start a --end b");
  OnChosen(command, globals, [=] { return Count(*globals, *o); });
}

}  // namespace pando::admin
