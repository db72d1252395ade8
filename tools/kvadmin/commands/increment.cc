// kvadmin increment: adds to the number stored under a key.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct IncrementOptions {
  std::string key;
  Encoding encoding = Encoding::kText;
  int64_t by = 1;
  ConditionOptions condition;
};

Result<ExitCode> Increment(const Globals& globals, const IncrementOptions& options) {
  api::IncrementRequest request;
  ASSIGN_OR_RETURN(request.key, DecodeInput(options.key, options.encoding, "key"));
  request.__set_delta(options.by);
  ASSIGN_OR_RETURN(auto condition, BuildCondition(options.condition, options.encoding));
  if (condition) request.__set_condition(*condition);
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::WriteResult result, client.Call(Client::Repeat::kUnsafe, &api::KvIf::increment, request));
  return ReportWrite(globals, request.key, options.encoding, result, fmt::format("{}", result.number));
}

}  // namespace

void AddIncrementCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<IncrementOptions>();
  tools::Command command =
      app.Add("increment", "Add to the decimal number stored under a key; a missing record counts as 0");
  command.Text("key", &o->key, "The key").Required();
  command.Number("--by", &o->by, "The number to add; may be negative").ShowDefault();
  AddEncodingOptions(command, &o->encoding);
  AddConditionOptions(command, &o->condition);
  command.Footer(
      "Examples:\n"
      "  kvadmin increment visits\n"
      "  kvadmin increment stock --by=-5 --if-exists\n"
      "Exit codes: 0 added; 1 the condition did not hold.");
  OnChosen(command, globals, [=] { return Increment(*globals, *o); });
}

}  // namespace pando::admin
