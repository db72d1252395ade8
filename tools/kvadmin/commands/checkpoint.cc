// kvadmin checkpoint: checkpoints every partition of a running node.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

Result<ExitCode> Checkpoint(const Globals& globals) {
  Client client(globals.target);
  api::CheckpointReply reply;
  RETURN_IF_ERROR(client.Admin(Client::Repeat::kSafe, [&](api::AdminClient& admin, const api::Context& context) {
    admin.checkpoint(reply, context);
  }));
  if (globals.json) {
    PrintJson(Json{{"partitions", reply.partitions}});
  } else {
    tools::Print("checkpointed {} partitions\n", reply.partitions);
  }
  return kExitOk;
}

}  // namespace

void AddCheckpointCommand(CLI::App& app, Globals* globals) {
  CLI::App* command =
      app.add_subcommand("checkpoint", "Checkpoint every partition, and wait until the checkpoints are durable");
  command->footer("Example:\n  kvadmin --timeout-ms 600000 checkpoint");
  OnChosen(command, globals, [=] { return Checkpoint(*globals); });
}

}  // namespace pando::admin
