// kvadmin hello: prints the version, features and limits of a server.
#include <fmt/format.h>

#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

constexpr int32_t kApiVersion = 2;

Result<ExitCode> Hello(const Globals& globals) {
  api::HelloRequest request;
  request.client_name = "kvadmin";
  request.api_version = kApiVersion;
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::HelloReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::hello, request));
  const api::Limits& l = reply.limits;
  const std::vector<std::pair<const char*, int32_t>> limits = {
      {"max_key_bytes", l.max_key_bytes},           {"max_value_bytes", l.max_value_bytes},
      {"max_batch_ops", l.max_batch_ops},           {"max_batch_bytes", l.max_batch_bytes},
      {"max_multi_get_keys", l.max_multi_get_keys}, {"max_frame_bytes", l.max_frame_bytes},
      {"max_scan_rows", l.max_scan_rows},           {"max_scan_bytes", l.max_scan_bytes}};
  if (globals.json) {
    Json j;
    j["server_version"] = reply.server_version;
    j["api_version"] = reply.api_version;
    j["node_id"] = reply.node_id;
    j["partitions"] = reply.partitions;
    j["features"] = reply.features;
    for (const auto& [name, value] : limits) j["limits"][name] = value;
    PrintJson(j);
    return kExitOk;
  }
  tools::Table table({"PROPERTY", "VALUE"}, /*align_numbers=*/false);
  table.Row({"server_version", reply.server_version});
  table.Row({"api_version", std::to_string(reply.api_version)});
  table.Row({"node_id", reply.node_id});
  table.Row({"partitions", std::to_string(reply.partitions)});
  table.Row({"features", fmt::format("{}", fmt::join(reply.features, ", "))});
  for (const auto& [name, value] : limits) table.Row({name, std::to_string(value)});
  tools::Print("{}", table.Render());
  return kExitOk;
}

}  // namespace

void AddHelloCommand(tools::Command app, Globals* globals) {
  tools::Command command = app.Add("hello", "Print the version, features and limits of the server");
  command.Footer("Examples:\n  kvadmin hello\n  kvadmin --json hello | jq .limits");
  OnChosen(command, globals, [=] { return Hello(*globals); });
}

}  // namespace pando::admin
