// kvadmin checkpoint: checkpoints every partition of a running node.
#include <fmt/format.h>

#include "src/base/counted.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

Result<ExitCode> Checkpoint(const Globals& globals) {
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::CheckpointReply reply, client.Call(Client::Repeat::kSafe, &api::AdminIf::checkpoint));
  if (globals.json) {
    PrintJson(Json{{"server", client.at()}, {"partitions", reply.partitions}});
  } else {
    tools::Print("checkpointed {} of {}\n", Counted(static_cast<uint64_t>(reply.partitions), "partition"), client.at());
  }
  return kExitOk;
}

}  // namespace

void AddCheckpointCommand(tools::Command app, Globals* globals) {
  tools::Command command =
      app.Add("checkpoint", "Checkpoint every partition, and wait until the checkpoints are durable");
  command.Footer("Example:\n  kvadmin --timeout-ms 600000 checkpoint");
  OnChosen(command, globals, [=] { return Checkpoint(*globals); });
}

}  // namespace pando::admin
