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
  api::WriteResult result;
  // Not repeated: if the first attempt deleted the record, the second would report that there was
  // none.
  RETURN_IF_ERROR(client.Kv(Client::Repeat::kUnsafe, [&](api::KvClient& kv, const api::Context& context) {
    kv.remove(result, context, request);
  }));
  ExitCode code = ReportWrite(globals, request.key, options.encoding, result,
                              result.existed ? "deleted" : "there was no such record");
  return code == kExitOk && !result.existed ? kExitNo : code;
}

}  // namespace

void AddDeleteCommand(CLI::App& app, Globals* globals) {
  auto o = std::make_shared<DeleteOptions>();
  CLI::App* command = app.add_subcommand("delete", "Delete a record");
  command->alias("remove");
  command->add_option("key", o->key, "The key")->required();
  AddEncodingOptions(command, &o->encoding);
  AddConditionOptions(command, &o->condition);
  command->footer(
      "Examples:\n"
      "  kvadmin delete colour\n"
      "  kvadmin delete lock --if-value me\n"
      "Exit codes: 0 deleted; 1 there was no such record, or the condition did not hold.");
  OnChosen(command, globals, [=] { return Delete(*globals, *o); });
}

}  // namespace pando::admin
