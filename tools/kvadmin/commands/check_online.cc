#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "src/base/counted.h"
#include "tools/common/interrupts.h"
#include "tools/common/table.h"
#include "tools/kvadmin/commands/check_online.h"
#include "tools/kvadmin/progress.h"

namespace pando::admin {

namespace {

constexpr std::chrono::milliseconds kFirstPause(50), kLongestPause(1000);

Json FindingsJson(const api::ScrubReply& reply, const std::string& server) {
  Json j;
  j["server"] = server;
  j["running"] = reply.running;
  j["passes_finished"] = reply.passes_finished;
  j["last_finished_ms"] = reply.last_finished_ms;
  j["bytes"] = reply.bytes;
  j["expected_bytes"] = reply.expected_bytes;
  j["rate_bytes_per_s"] = reply.rate_bytes_per_s;
  j["pages"] = reply.pages;
  j["overflow_values"] = reply.values;
  j["log_batches"] = reply.log_batches;
  j["skipped_partitions"] = reply.skipped_partitions;
  j["problems_total"] = ProblemsOf(reply);
  j["problems"] = Json::array();
  for (const api::ScrubFinding& f : reply.findings) {
    j["problems"].push_back(Json{{"file", f.file},
                                 {"offset", f.offset},
                                 {"what", f.what},
                                 {"advice", f.advice},
                                 {"first_seen_ms", f.first_seen_ms}});
  }
  return j;
}

void PrintFindings(const api::ScrubReply& reply) {
  for (const api::ScrubFinding& f : reply.findings) {
    tools::Print("PROBLEM {} at offset {}: {}\n  seen since {}; {}\n", f.file, f.offset, f.what,
                 TimeText(f.first_seen_ms), f.advice);
  }
  const int64_t more = ProblemsOf(reply) - static_cast<int64_t>(reply.findings.size());
  if (more > 0)
    tools::Print("and {} more; kvadmin status names all quarantined partitions\n",
                 Counted(static_cast<uint64_t>(more), "problem"));
  if (reply.skipped_partitions > 0) {
    tools::Print("the bitmaps of {} were skipped: checkpoints changed them too often\n",
                 Counted(static_cast<uint64_t>(reply.skipped_partitions), "partition"));
  }
  const std::string read =
      fmt::format("{} read from disk: {} pages, {} overflow values, {} log batches",
                  tools::HumanBytes(static_cast<double>(reply.bytes)), reply.pages, reply.values, reply.log_batches);
  if (reply.running) {
    tools::Print("a pass is running: {}, of about {} in all; {} so far\n", read,
                 tools::HumanBytes(static_cast<double>(reply.expected_bytes)),
                 Counted(static_cast<uint64_t>(ProblemsOf(reply)), "problem"));
  } else if (reply.passes_finished == 0) {
    tools::Print("no pass has finished since the node started; run one with kvadmin check --online\n");
  } else if (reply.findings.empty()) {
    tools::Print("sound: {}\n", read);
  } else {
    tools::Print("DAMAGED: {}; {}\n", Counted(static_cast<uint64_t>(ProblemsOf(reply)), "problem"), read);
  }
}

Result<api::ScrubReply> Ask(Client* client, bool start, int32_t mb_per_s) {
  api::ScrubRequest request;
  request.start = start;
  request.mb_per_s = mb_per_s;
  ASSIGN_OR_RETURN(api::ScrubReply reply, client->Call(Client::Repeat::kSafe, &api::AdminIf::scrub, request));
  return reply;
}

// Starts a pass and waits until it ends.
Result<api::ScrubReply> RunPass(Client* client, const OnlineCheckOptions& options) {
  ASSIGN_OR_RETURN(api::ScrubReply reply, Ask(client, /*start=*/true, options.mb_per_s));
  // Another one of several servers does not know this pass.
  Client same({client->at(), client->target().timeout_ms});
  client = &same;
  const int64_t finished_before = reply.passes_finished;
  std::unique_ptr<Progress> progress;
  for (auto pause = kFirstPause; reply.running; pause = std::min(pause * 2, kLongestPause)) {
    // The length of the pass is known when every reactor has begun.
    if (!progress && reply.expected_bytes > 0) {
      progress =
          std::make_unique<Progress>("verifying", "pages", static_cast<uint64_t>(reply.expected_bytes), options.quiet);
    }
    if (progress) {
      const auto done = static_cast<uint64_t>(std::min(reply.bytes, reply.expected_bytes));
      progress->Update(static_cast<uint64_t>(reply.pages), static_cast<uint64_t>(reply.bytes), done);
    }
    if (!tools::Interrupts::Sleep(pause.count())) {
      return Error(Code::kAborted, "{}; the pass continues in the node, and --report shows its progress",
                   tools::Interrupts::Check().message());
    }
    ASSIGN_OR_RETURN(reply, Ask(client, /*start=*/false, 0));
  }
  if (progress) progress->Clear();
  if (reply.passes_finished > finished_before) return reply;
  return Error(Code::kAborted,
               "the node ended the pass early, because it is stopping or has failed; run kvadmin status");
}

}  // namespace

Result<ExitCode> CheckOnline(const Globals& globals, const OnlineCheckOptions& options) {
  Client client(globals.target);
  Result<api::ScrubReply> reply = options.report_only ? Ask(&client, /*start=*/false, 0) : RunPass(&client, options);
  RETURN_IF_ERROR(reply.status());
  if (globals.json) {
    PrintJson(FindingsJson(*reply, client.at()));
  } else {
    if (globals.target.address != client.at()) tools::Print("{}:\n", client.at());
    PrintFindings(*reply);
  }
  return reply->findings.empty() ? kExitOk : kExitCorruption;
}

}  // namespace pando::admin
