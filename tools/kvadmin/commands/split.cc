// kvadmin split: divides a range into parts with about equally many records.
#include <fmt/format.h>

#include "tools/common/table.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

struct SplitOptions {
  RangeOptions range;
  int32_t parts = 8;
};

Result<ExitCode> Split(const Globals& globals, const SplitOptions& options) {
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  api::SplitRangeRequest request;
  SetRange(range, &request);
  request.parts = options.parts;
  Client client(globals.target);
  ASSIGN_OR_RETURN(api::SplitRangeReply reply, client.Call(Client::Repeat::kSafe, &api::KvIf::splitRange, request));
  tools::Table table({"START", "END", "RECORDS", "BYTES"});
  for (const api::RangePart& part : reply.parts) {
    if (globals.json) {
      Json j;
      SetBytes(&j, "start", part.start_key);
      SetBytes(&j, "end", part.end_key);
      j["count"] = part.count;
      j["bytes"] = part.bytes;
      PrintJson(j);
      continue;
    }
    table.Row({Printable(part.start_key, options.range.encoding), Printable(part.end_key, options.range.encoding),
               std::to_string(part.count), std::to_string(part.bytes)});
  }
  if (!globals.json) tools::Print("{}", table.Render());
  return kExitOk;
}

}  // namespace

void AddSplitCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<SplitOptions>();
  tools::Command command = app.Add("split", "Divide a range into parts with about equally many records");
  AddRangeOptions(command, &o->range);
  command.Number("--parts", &o->parts, "Number of parts", 1).ShowDefault();
  command.Footer(
      "For jobs that read a range in parallel, with one scan per part. Open a snapshot first, so that all jobs read\n"
      "the same moment. The counts are exact. An empty START or END means that the part is unbounded there.\n\n"
      "Examples:\n"
      "  kvadmin split --parts 16\n"
      "  kvadmin --json split --prefix user/ --parts 4");
  OnChosen(command, globals, [=] { return OfManyPartitions(Split(*globals, *o)); });
}

}  // namespace pando::admin
