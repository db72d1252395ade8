// kvadmin watch: prints changes as they happen.
#include <fmt/format.h>

#include "src/base/counted.h"
#include "tools/common/interrupts.h"
#include "tools/kvadmin/commands/commands.h"

namespace pando::admin {

namespace {

constexpr int64_t kMaxWaitMs = 60'000;

struct WatchOptions {
  std::string prefix, position;
  int64_t after_version = 0;
  Encoding encoding = Encoding::kText;
  uint64_t limit = 0;
  bool once = false;
};

void PrintChange(const Globals& globals, const WatchOptions& options, const api::Change& change) {
  if (globals.json) {
    Json j;
    SetBytes(&j, "key", change.key);
    j["version"] = VersionText(change.version);
    j["removed"] = change.removed;
    PrintJson(j);
  } else {
    tools::Print("{}  {:7}  {}\n", TimeText(static_cast<int64_t>(static_cast<uint64_t>(change.version) >> 16)),
                 change.removed ? "removed" : "written", Printable(change.key, options.encoding));
  }
}

// Where another watch of the same prefix goes on without a gap.
void PrintPosition(const Globals& globals, uint64_t printed, const std::string& position) {
  if (globals.json) {
    tools::PrintNote("{}\n", JsonText(Json{{"changes", printed}, {"position", Base64Encode(position)}}));
  } else {
    tools::PrintNote("{}; continue with --position {}\n", Counted(printed, "change"), Base64Encode(position));
  }
}

Result<ExitCode> Watch(const Globals& globals, const WatchOptions& options) {
  api::WatchRequest request;
  ASSIGN_OR_RETURN(request.prefix, DecodeInput(options.prefix, options.encoding, "--prefix"));
  ASSIGN_OR_RETURN(request.position, Base64Decode(options.position));
  request.after_version = options.after_version;
  Client client(globals.target);
  uint64_t printed = 0;
  do {
    request.limit_changes =
        static_cast<int32_t>(options.limit == 0 ? 0 : std::min<uint64_t>(options.limit - printed, 10'000));
    // The first call does not wait, so that there is a position to continue from if a later call
    // fails.
    Result<api::WatchReply> answer = client.Call(Client::Repeat::kSafe, &api::KvIf::watch, request);
    if (!answer.ok()) {
      // A server that does not keep the changes after the position any more says so, and there is no going on.
      const bool goes_on =
          tools::Interrupts::Received() != 0 || answer.code() == Code::kUnavailable || answer.code() == Code::kDeadline;
      if (goes_on && !request.position.empty()) PrintPosition(globals, printed, request.position);
      return answer.TakeStatus();
    }
    const api::WatchReply& reply = *answer;
    for (const api::Change& change : reply.changes) PrintChange(globals, options, change);
    RETURN_IF_ERROR(tools::FlushOutput());  // each change must reach the reader when it happens
    printed += reply.changes.size();
    request.position = reply.position;
    request.after_version = 0;
    if (options.once && !reply.more) break;
    request.wait_ms = static_cast<int32_t>(std::min(kMaxWaitMs, globals.target.timeout_ms / 2));
  } while (options.limit == 0 || printed < options.limit);
  PrintPosition(globals, printed, request.position);
  return kExitOk;
}

}  // namespace

void AddWatchCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<WatchOptions>();
  tools::Command command = app.Add("watch", "Print changes as they happen, until interrupted");
  command.Text("--prefix", &o->prefix, "Only keys that begin with this");
  auto after = command.Number("--after-version", &o->after_version,
                              "Begin after this version, such as that of a snapshot, instead of now", 1);
  command
      .Text("--position", &o->position,
            "Continue where an earlier watch of the same prefix ended: the position that it printed")
      .Excludes(after);
  command.Number("--limit", &o->limit, "End after this many changes; 0 = never").ShowDefault();
  command.Flag("--once", &o->once, "Print the changes that have already happened, and end");
  AddEncodingOptions(command, &o->encoding);
  command.Footer(
      "A change has a key and a version, but no value. The node keeps a limited number of changes. If a watch needs\n"
      "changes that are no longer kept, or are from before a restart, it fails: read a snapshot, and watch from its\n"
      "version.\n\n"
      "Examples:\n"
      "  kvadmin watch --prefix user/\n"
      "  kvadmin --json watch --prefix user/ --limit 10\n"
      "  kvadmin watch --after-version 113239859324813312 --once");
  OnChosen(command, globals, [=] { return OfManyPartitions(Watch(*globals, *o)); });
}

}  // namespace pando::admin
