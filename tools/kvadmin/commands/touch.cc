// kvadmin touch: changes when a record expires, but not its value.
#include <fmt/format.h>

#include "gen-cpp/pando_constants.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct TouchOptions {
  std::string key;
  Encoding encoding = Encoding::kText;
  ConditionOptions condition;
  int64_t ttl_ms = 0, expires_at_ms = 0;
  bool clear_ttl = false;
};

Result<ExitCode> Touch(const Globals& globals, const TouchOptions& options) {
  api::TouchRequest request;
  ASSIGN_OR_RETURN(request.key, DecodeInput(options.key, options.encoding, "key"));
  ASSIGN_OR_RETURN(auto condition, BuildCondition(options.condition, options.encoding));
  if (condition) request.__set_condition(*condition);
  if (options.ttl_ms > 0) {
    request.__set_ttl_mode(api::g_pando_constants.TTL_SET);
    request.__set_ttl_ms(options.ttl_ms);
  } else if (options.expires_at_ms > 0) {
    request.__set_ttl_mode(api::g_pando_constants.TTL_SET_ABSOLUTE);
    request.__set_expires_at_ms(options.expires_at_ms);
  } else if (options.clear_ttl) {
    request.__set_ttl_mode(api::g_pando_constants.TTL_CLEAR);
  } else {
    return Error(Code::kInvalidArgument, "touch needs one of --ttl-ms, --expires-at-ms and --clear-ttl");
  }
  Client client(globals.target);
  auto repeat = condition ? Client::Repeat::kUnsafe : Client::Repeat::kSafeWrite;
  ASSIGN_OR_RETURN(api::WriteResult result, client.Call(repeat, &api::KvIf::touch, request));
  if (!result.applied && !condition && !globals.json) {
    tools::PrintNote("not applied: there is no record \"{}\"\n", Printable(request.key, options.encoding));
    return kExitNo;
  }
  return ReportWrite(globals, request.key, options.encoding, result,
                     fmt::format("expiry changed, version {}", VersionText(result.version)));
}

}  // namespace

void AddTouchCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<TouchOptions>();
  tools::Command command = app.Add("touch", "Change when a record expires, but not its value");
  command.Text("key", &o->key, "The key").Required();
  AddEncodingOptions(command, &o->encoding);
  auto ttl = command.Number("--ttl-ms", &o->ttl_ms, "The record expires after this many milliseconds", 1);
  auto at = command.Number("--expires-at-ms", &o->expires_at_ms, "The record expires at this Unix time, in ms", 1)
                .Excludes(ttl);
  command.Flag("--clear-ttl", &o->clear_ttl, "The record never expires").Excludes(ttl).Excludes(at);
  AddConditionOptions(command, &o->condition);
  command.Footer(
      "Examples:\n"
      "  kvadmin touch session-1 --ttl-ms 60000\n"
      "  kvadmin touch session-1 --clear-ttl --if-version 42\n"
      "Exit codes: 0 done; 1 there is no such record, or the condition did not hold.");
  OnChosen(command, globals, [=] { return Touch(*globals, *o); });
}

}  // namespace pando::admin
