// kvadmin get: prints one record.
#include <fmt/format.h>

#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct GetOptions {
  std::string key, snapshot;
  Encoding encoding = Encoding::kText;
  bool raw = false, verbose = false;
};

Result<ExitCode> Get(const Globals& globals, const GetOptions& options) {
  api::GetRequest request;
  ASSIGN_OR_RETURN(request.key, DecodeInput(options.key, options.encoding, "key"));
  ASSIGN_OR_RETURN(request.snapshot, Base64Decode(options.snapshot));
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::GetReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::get, request));
  const api::Record& record = reply.record;
  if (globals.json) {
    PrintJson(RecordJson(request.key, record));
    return record.found ? kExitOk : kExitNo;
  }
  if (!record.found) {
    tools::PrintNote("no record \"{}\"\n", Printable(request.key, options.encoding));
    return kExitNo;
  }
  if (options.raw) {
    tools::WriteOutput(record.value);
    return kExitOk;
  }
  // Line breaks in text are printed as they are. Other bytes that would act on a terminal are
  // escaped.
  std::string shown;
  size_t begin = 0;
  while (options.encoding == Encoding::kText && begin <= record.value.size()) {
    size_t end = std::min(record.value.find('\n', begin), record.value.size());
    if (begin > 0) shown += '\n';
    shown += Printable(std::string_view(record.value).substr(begin, end - begin), Encoding::kText);
    begin = end + 1;
  }
  if (options.encoding != Encoding::kText) shown = Printable(record.value, options.encoding);
  if (shown.empty() || shown.back() != '\n') shown += '\n';
  if (options.verbose) {
    tools::Print("version {}, written {}, expires {}, {} bytes\n", VersionText(record.version),
                 TimeText(static_cast<int64_t>(static_cast<uint64_t>(record.version) >> 16)),
                 TimeText(record.expires_at_ms), record.value.size());
  }
  tools::Print("{}", shown);
  return kExitOk;
}

}  // namespace

void AddGetCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<GetOptions>();
  tools::Command command = app.Add("get", "Print the value of a key");
  command.Text("key", &o->key, "The key").Required();
  AddEncodingOptions(command, &o->encoding);
  AddSnapshotOption(command, &o->snapshot);
  command.Flag("--raw", &o->raw, "Write the bytes of the value as they are, without a line end");
  command.Flag("-v,--verbose", &o->verbose, "Also print the version, the times and the size");
  command.Footer(
      "Examples:\n"
      "  kvadmin get bash\n"
      "  kvadmin get --raw picture.png > picture.png\n"
      "  kvadmin get --hex 00ff10\n"
      "  kvadmin --json get bash | jq -r .value\n"
      "Exit codes: 0 found; 1 no such record.");
  OnChosen(command, globals, [=] { return Get(*globals, *o); });
}

}  // namespace pando::admin
