// kvadmin put: stores one record.
#include <fmt/format.h>

#include "gen-cpp/pando_constants.h"
#include "src/base/limits.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/input_file.h"

namespace pando::admin {

namespace {

struct PutOptions {
  std::string key, value, value_file;
  Encoding encoding = Encoding::kText;
  ConditionOptions condition;
  int64_t ttl_ms = 0;
  bool clear_ttl = false;
  tools::Option value_option;
};

Result<std::string> ReadValue(const PutOptions& options) {
  if (options.value_option.given()) return DecodeInput(options.value, options.encoding, "value");
  return ReadInput(options.value_file, kMaxValueBytes);
}

Result<ExitCode> Put(const Globals& globals, const PutOptions& options) {
  if (options.value_option.given() == !options.value_file.empty()) {
    return Error(Code::kInvalidArgument, "put needs exactly one value: an argument or --value-file");
  }
  api::PutRequest request;
  ASSIGN_OR_RETURN(request.key, DecodeInput(options.key, options.encoding, "key"));
  ASSIGN_OR_RETURN(request.value, ReadValue(options));
  ASSIGN_OR_RETURN(auto condition, BuildCondition(options.condition, options.encoding));
  if (condition) request.__set_condition(*condition);
  if (options.ttl_ms > 0) {
    request.__set_ttl_mode(api::g_pando_constants.TTL_SET);
    request.__set_ttl_ms(options.ttl_ms);
  } else if (options.clear_ttl) {
    request.__set_ttl_mode(api::g_pando_constants.TTL_CLEAR);
  }
  Client client(globals.target);
  auto repeat = condition ? Client::Repeat::kUnsafe : Client::Repeat::kSafeWrite;
  ASSIGN_OR_RETURN(api::WriteResult result, client.Call(repeat, &api::KvIf::put, request));
  return ReportWrite(globals, request.key, options.encoding, result,
                     fmt::format("stored, version {}", VersionText(result.version)));
}

}  // namespace

void AddPutCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<PutOptions>();
  tools::Command command = app.Add("put", "Store a value under a key");
  command.Text("key", &o->key, "The key").Required();
  o->value_option = command.Text("value", &o->value, "The value");
  command.Text("--value-file", &o->value_file, "Read the value from this file; - is standard input");
  AddEncodingOptions(command, &o->encoding);
  auto ttl = command.Number("--ttl-ms", &o->ttl_ms, "The record expires after this many milliseconds", 1);
  command.Flag("--clear-ttl", &o->clear_ttl, "The record never expires; without this flag, an existing expiry stays")
      .Excludes(ttl);
  AddConditionOptions(command, &o->condition);
  command.Footer(
      "Examples:\n"
      "  kvadmin put colour blue\n"
      "  kvadmin put picture.png --value-file picture.png\n"
      "  kvadmin put --hex 00ff10 c0ffee\n"
      "  kvadmin put session-1 ok --ttl-ms 60000\n"
      "  kvadmin put lock me --if-absent\n"
      "Exit codes: 0 stored; 1 the condition did not hold.");
  OnChosen(command, globals, [=] { return Put(*globals, *o); });
}

}  // namespace pando::admin
