// kvadmin snapshot: opens, renews and releases snapshots.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct SnapshotOptions {
  std::string token;
  int32_t ttl_s = 600;
};
constexpr int32_t kMaxTtlS = 600;  // the servers' limit; it is kept longer by renewing it

void PrintSnapshot(const Globals& globals, const api::SnapshotReply& reply) {
  const std::string token = Base64Encode(reply.snapshot);
  if (globals.json) {
    PrintJson(
        Json{{"snapshot", token}, {"version", VersionText(reply.version)}, {"expires_at_ms", reply.expires_at_ms}});
  } else {
    tools::Print("{}\n", token);
    tools::PrintNote("expires {} unless it is renewed\n", TimeText(reply.expires_at_ms));
  }
}

Result<ExitCode> Open(const Globals& globals, const SnapshotOptions& options) {
  api::OpenSnapshotRequest request;
  request.ttl_ms = options.ttl_s * 1000;
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::SnapshotReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::openSnapshot, request));
  PrintSnapshot(globals, reply);
  return kExitOk;
}

Result<ExitCode> Renew(const Globals& globals, const SnapshotOptions& options) {
  api::RenewSnapshotRequest request;
  ASSIGN_OR_RETURN(request.snapshot, Base64Decode(options.token));
  request.ttl_ms = options.ttl_s * 1000;
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::SnapshotReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::renewSnapshot, request));
  PrintSnapshot(globals, reply);
  return kExitOk;
}

Result<ExitCode> Release(const Globals& globals, const SnapshotOptions& options) {
  api::ReleaseSnapshotRequest request;
  ASSIGN_OR_RETURN(request.snapshot, Base64Decode(options.token));
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::ReleaseSnapshotReply reply,
                   client.Call(Client::Repeat::kSafe, &api::KvIf::releaseSnapshot, request));
  if (globals.json) {
    PrintJson(Json{{"existed", reply.existed}});
  } else {
    tools::Print("{}\n", reply.existed ? "released" : "there is no such snapshot; it expired or was released");
  }
  return reply.existed ? kExitOk : kExitNo;
}

}  // namespace

void AddSnapshotCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<SnapshotOptions>();
  tools::Command command = app.Add("snapshot", "Open, renew and release snapshots");
  command.NeedsCommand();
  command.Footer(
      "A snapshot holds everything as of one moment. get, scan, count, aggregate, split, diff and export read it with\n"
      "--snapshot. While it is open, replaced pages stay on disk, so release it when you are done.\n"
      "It ends after ten minutes at the latest unless it is renewed, and can be renewed as often as it is needed.\n\n"
      "Examples:\n"
      "  token=$(kvadmin snapshot open)\n"
      "  kvadmin scan --snapshot $token --prefix user/\n"
      "  kvadmin snapshot renew $token\n"
      "  kvadmin snapshot release $token");
  auto add = [&](const char* name, const char* help, bool with_token, bool with_ttl,
                 Result<ExitCode> (*run)(const Globals&, const SnapshotOptions&)) {
    tools::Command sub = command.Add(name, help);
    if (with_token) sub.Text("token", &o->token, "The token that `snapshot open` printed").Required().NotEmpty();
    if (with_ttl) {
      sub.Number("--ttl-s", &o->ttl_s, "Lifetime in seconds, unless it is renewed", 1, kMaxTtlS).ShowDefault();
    }
    OnChosen(sub, globals, [=] { return OfManyPartitions(run(*globals, *o)); });
  };
  add("open", "Open a snapshot and print its token", false, true, Open);
  add("renew", "Extend the lifetime of a snapshot, from now on", true, true, Renew);
  add("release", "Release a snapshot and the space that it keeps", true, false, Release);
}

}  // namespace pando::admin
