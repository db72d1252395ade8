// kvadmin snapshot: opens, renews and releases snapshots.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct SnapshotOptions {
  std::string token;
  int32_t ttl_s = 600;
};
constexpr int32_t kMaxTtlS = 2'000'000;  // in ms it must fit into an i32

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
  api::SnapshotReply reply;
  RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.openSnapshot(reply, context, request);
  }));
  PrintSnapshot(globals, reply);
  return kExitOk;
}

Result<ExitCode> Renew(const Globals& globals, const SnapshotOptions& options) {
  api::RenewSnapshotRequest request;
  ASSIGN_OR_RETURN(request.snapshot, Base64Decode(options.token));
  request.ttl_ms = options.ttl_s * 1000;
  Client client(globals.target);
  api::SnapshotReply reply;
  RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.renewSnapshot(reply, context, request);
  }));
  PrintSnapshot(globals, reply);
  return kExitOk;
}

Result<ExitCode> Release(const Globals& globals, const SnapshotOptions& options) {
  api::ReleaseSnapshotRequest request;
  ASSIGN_OR_RETURN(request.snapshot, Base64Decode(options.token));
  Client client(globals.target);
  api::ReleaseSnapshotReply reply;
  RETURN_IF_ERROR(client.Kv(Client::Repeat::kSafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.releaseSnapshot(reply, context, request);
  }));
  if (globals.json) {
    PrintJson(Json{{"existed", reply.existed}});
  } else {
    tools::Print("{}\n", reply.existed ? "released" : "there is no such snapshot; it expired or was released");
  }
  return reply.existed ? kExitOk : kExitNo;
}

}  // namespace

void AddSnapshotCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<SnapshotOptions>();
  CLI::App* command = app.add_subcommand("snapshot", "Open, renew and release snapshots");
  command->require_subcommand(1);
  command->footer(
      "A snapshot holds everything as of one moment. get, scan, count, aggregate, split, diff and export read it with\n"
      "--snapshot. While it is open, replaced pages stay on disk, so release it when you are done.\n\n"
      "Examples:\n"
      "  token=$(kvadmin snapshot open --ttl-s 3600)\n"
      "  kvadmin scan --snapshot $token --prefix user/\n"
      "  kvadmin snapshot renew $token\n"
      "  kvadmin snapshot release $token");
  auto add = [&](const char* name, const char* help, bool with_token, bool with_ttl,
                 Result<ExitCode> (*run)(const Globals&, const SnapshotOptions&)) {
    CLI::App* sub = command->add_subcommand(name, help);
    if (with_token)
      sub->add_option("token", o->token, "The token that `snapshot open` printed")->required()->check(NotEmpty());
    if (with_ttl) {
      tools::AddNumber(sub, Spell("--ttl-s"), &o->ttl_s, "Lifetime in seconds, unless it is renewed", 1, kMaxTtlS)
          ->capture_default_str();
    }
    OnChosen(sub, globals, [=] { return run(*globals, *o); });
  };
  add("open", "Open a snapshot and print its token", false, true, Open);
  add("renew", "Extend the lifetime of a snapshot, from now on", true, true, Renew);
  add("release", "Release a snapshot and the space that it keeps", true, false, Release);
}

}  // namespace pando::admin
