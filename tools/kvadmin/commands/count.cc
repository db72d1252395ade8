// kvadmin count: counts the records of a range.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct CountOptions {
  RangeOptions range;
};

Result<ExitCode> Count(const Globals& globals, const CountOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  api::CountRequest request;
  SetRange(range, &request);
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::CountReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::count, request));
  if (globals.json) {
    PrintJson(Json{{"count", reply.count}});
  } else {
    tools::Print("{}\n", reply.count);
  }
  return kExitOk;
}

}  // namespace

void AddCountCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<CountOptions>();
  tools::Command command = app.Add("count", "Count the records of a range, or of the whole store");
  AddRangeOptions(command, &o->range);
  command.Footer(
      "Examples:\n"
      "  kvadmin count\n"
      "  kvadmin count --prefix lib\n"
      "  kvadmin count --start a --end b");
  OnChosen(command, globals, [=] { return OfManyPartitions(Count(*globals, *o)); });
}

}  // namespace pando::admin
