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
  api::WriteResult result;
  auto repeat = condition ? Client::Repeat::kUnsafe : Client::Repeat::kSafeWrite;
  RETURN_IF_ERROR(
      client.Kv(repeat, [&](api::KvClient& kv, const api::Context& context) { kv.touch(result, context, request); }));
  return ReportWrite(globals, request.key, options.encoding, result,
                     fmt::format("expiry changed, version {}", VersionText(result.version)));
}

}  // namespace

void AddTouchCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<TouchOptions>();
  CLI::App* command = app.add_subcommand("touch", "Change when a record expires, but not its value");
  command->add_option("key", o->key, "The key")->required();
  AddEncodingOptions(command, &o->encoding);
  auto* ttl =
      tools::AddNumber(command, Spell("--ttl-ms"), &o->ttl_ms, "The record expires after this many milliseconds", 1);
  auto* at = tools::AddNumber(command, Spell("--expires-at-ms"), &o->expires_at_ms,
                              "The record expires at this Unix time, in ms", 1)
                 ->excludes(ttl);
  command->add_flag(Spell("--clear-ttl"), o->clear_ttl, "The record never expires")->excludes(ttl)->excludes(at);
  AddConditionOptions(command, &o->condition);
  command->footer(
      "Examples:\n"
      "  kvadmin touch session-1 --ttl-ms 60000\n"
      "  kvadmin touch session-1 --clear-ttl --if-version 42\n"
      "Exit codes: 0 done; 1 there is no such record, or the condition did not hold.");
  OnChosen(command, globals, [=] { return Touch(*globals, *o); });
}

}  // namespace pando::admin
