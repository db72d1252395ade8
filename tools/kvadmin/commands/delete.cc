// kvadmin delete: deletes one record.
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct DeleteOptions {
  std::string key;
  Encoding encoding = Encoding::kText;
  ConditionOptions condition;
};

Result<ExitCode> Delete(const Globals& globals, const DeleteOptions& options) {
  api::RemoveRequest request;
  ASSIGN_OR_RETURN(request.key, DecodeInput(options.key, options.encoding, "key"));
  ASSIGN_OR_RETURN(auto condition, BuildCondition(options.condition, options.encoding));
  if (condition) request.__set_condition(*condition);
  Client client(globals.target);
  // Not repeated: if the first attempt deleted the record, the second would report that there was
  // none.
  ASSIGN_OR_RETURN(api::WriteResult result, client.Call(Client::Repeat::kUnsafe, &api::KvIf::remove, request));
  ExitCode code = ReportWrite(globals, request.key, options.encoding, result,
                              result.existed ? "deleted" : "there was no such record");
  return code == kExitOk && !result.existed ? kExitNo : code;
}

}  // namespace

void AddDeleteCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<DeleteOptions>();
  tools::Command command = app.Add("delete", "Delete a record");
  command.Alias("remove");
  command.Text("key", &o->key, "The key").Required();
  AddEncodingOptions(command, &o->encoding);
  AddConditionOptions(command, &o->condition);
  command.Footer(
      "Examples:\n"
      "  kvadmin delete colour\n"
      "  kvadmin delete lock --if-value me\n"
      "Exit codes: 0 deleted; 1 there was no such record, or the condition did not hold.");
  OnChosen(command, globals, [=] { return Delete(*globals, *o); });
}

}  // namespace pando::admin
