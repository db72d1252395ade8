// kvadmin aggregate: prints the number of records, their bytes, and the content hash of a range.
#include <fmt/format.h>

#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct AggregateOptions {
  RangeOptions range;
};

Result<ExitCode> Aggregate(const Globals& globals, const AggregateOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  api::AggregateRequest request;
  SetRange(range, &request);
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::AggregateReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::aggregate, request));
  const std::string hash = fmt::format("{:016x}", static_cast<uint64_t>(reply.content_hash));
  if (globals.json) {
    PrintJson(Json{{"count", reply.count}, {"bytes", reply.bytes}, {"content_hash", hash}});
  } else {
    tools::Print("records       {}\nbytes         {} ({})\ncontent hash  {}\n", reply.count, reply.bytes,
                 tools::HumanBytes(static_cast<double>(reply.bytes)), hash);
  }
  return kExitOk;
}

}  // namespace

void AddAggregateCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<AggregateOptions>();
  tools::Command command =
      app.Add("aggregate", "Print records, bytes and content hash of a range, or of the whole store");
  AddRangeOptions(command, &o->range);
  command.Footer(
      "The hash covers keys, values, versions and expiries. Equal content has the same hash, whatever the order of\n"
      "the writes. A large range takes no longer than a small one.\n\n"
      "Examples:\n"
      "  kvadmin aggregate\n"
      "  kvadmin aggregate --prefix user/\n"
      "  kvadmin --json aggregate --start a --end b");
  OnChosen(command, globals, [=] { return OfManyPartitions(Aggregate(*globals, *o)); });
}

}  // namespace pando::admin
