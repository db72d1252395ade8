#include "tools/kvadmin/commands/accept_log_loss.h"

#include <fmt/format.h>

#include "src/base/expiry.h"
#include "src/base/hash.h"
#include "src/verify/accept_log_loss.h"
#include "tools/common/table.h"

namespace pando::admin {
namespace {

using From = PartitionLogLoss::From;

const char* FromName(From from) {
  switch (from) {
    case From::kCheckpoint: return "checkpoint";
    case From::kLog: return "log";
    case From::kQuarantined: return "quarantined";
  }
  return "?";
}

// Changes with everything that was shown, so that nobody confirms what they have not seen.
uint32_t CodeOf(const LogLossReport& report) {
  std::string seen = fmt::format("{} {} {} {} {} {}", report.store.node.ToString(), report.directory, report.damage,
                                 report.cut.number, report.cut.at, report.batches_behind);
  for (const std::string& name : report.put_aside) seen += " " + name;
  for (const PartitionLogLoss& p : report.partitions) {
    seen += fmt::format(" {} {} {} {} {} {}", p.info.uuid.ToString(), FromName(p.from), p.keeps_lsn, p.known_lsn,
                        p.readable_records, p.why);
  }
  return static_cast<uint32_t>(Hash64(seen));
}
std::string CodeText(uint32_t code) { return fmt::format("{:08x}", code); }

std::string PlaceText(LogPosition at) {
  return fmt::format("{} at offset {}", SegmentFileName(PositionSegment(at)), PositionOffset(at));
}

std::string LostText(const PartitionLogLoss& p) {
  if (p.known_lsn <= p.keeps_lsn) return "no write that is known";
  std::string text =
      fmt::format("at least LSN {} to {}, {} in all", p.keeps_lsn + 1, p.known_lsn, p.known_lsn - p.keeps_lsn);
  if (p.known_version != 0) text += ", up to " + TimeText(VersionMs(p.known_version));
  if (p.readable_records > 0) text += fmt::format("; {} can still be read", p.readable_records);
  return text;
}

void PrintPartitions(const LogLossReport& report) {
  tools::Table table({"PARTITION", "CHECKPOINT", "KEEPS UP TO", "OF", "LOST"});
  for (const PartitionLogLoss& p : report.partitions) {
    table.Row({std::to_string(p.info.id), std::to_string(p.checkpoint_lsn), std::to_string(p.keeps_lsn),
               p.from == From::kQuarantined ? "file and log" : std::string("its ") + FromName(p.from), LostText(p)});
  }
  tools::Print("{}", table.Render());
  for (const PartitionLogLoss& p : report.partitions) {
    if (p.from != From::kQuarantined) continue;
    tools::Print(
        "Partition {} is damaged by itself, and stays quarantined until a sound copy of its file is put back or "
        "accept-loss --partition {} is run: {}\n",
        p.info.id, p.info.id, p.why);
  }
}

void Show(const LogLossReport& report) {
  tools::Print("log {} of {}\ndamage: {}\n", report.reactor, report.store.data_dir, report.damage);
  if (report.cut.at == 0) {
    tools::Print("Nothing of the log stays.\n");
  } else {
    tools::Print("The log before it stays: {} batches with {} records. From then on it ends in {}.\n", report.batches,
                 report.records, PlaceText(report.cut.at));
  }
  tools::Print(
      "What follows is lost. {} batches with {} records of it can still be read, and kvadmin wal-dump prints them. "
      "What\n"
      "cannot be read may hold writes of any partition of this log, so the loss is at least the one that is shown.\n\n",
      report.batches_behind, report.records_behind);
  PrintPartitions(report);
  for (const std::string& name : report.put_aside) {
    tools::Print("{} stays as {}\n", name, AsideName({}, name));
  }
  tools::Print("Nothing was changed. To accept exactly this loss: kvadmin accept-loss {} --log {} --confirm {}\n",
               report.store.data_dir, report.reactor, CodeText(CodeOf(report)));
}

Json ReportJson(const LogLossReport& report, bool accepted) {
  Json j;
  j["data_dir"] = report.store.data_dir;
  j["log"] = report.reactor;
  j["directory"] = report.directory;
  j["damage"] = report.damage;
  j["ends_at"] = Json{{"segment", PositionSegment(report.cut.at)}, {"offset", PositionOffset(report.cut.at)}};
  j["batches"] = report.batches;
  j["records"] = report.records;
  j["readable_behind"] = Json{{"batches", report.batches_behind}, {"records", report.records_behind}};
  j["put_aside"] = report.put_aside;
  j["partitions"] = Json::array();
  for (const PartitionLogLoss& p : report.partitions) {
    Json one{{"partition", p.info.id},
             {"uuid", p.info.uuid.ToString()},
             {"continues_from", FromName(p.from)},
             {"keeps_lsn", p.keeps_lsn},
             {"checkpoint_lsn", p.checkpoint_lsn},
             {"known_lsn", p.known_lsn},
             {"readable_records", p.readable_records}};
    if (!p.why.empty()) one["why"] = p.why;
    j["partitions"].push_back(std::move(one));
  }
  j["accepted"] = accepted;
  if (!accepted) j["confirm"] = CodeText(CodeOf(report));
  return j;
}

void PrintAccepted(const Globals& globals, const StoreInfo& store, uint32_t log, const LogLossReport* report) {
  if (globals.json) {
    PrintJson(report != nullptr ? ReportJson(*report, true)
                                : Json{{"data_dir", store.data_dir}, {"log", log}, {"accepted", true}});
    return;
  }
  tools::Print("log {}: the loss is accepted. Start kvnode --data_dir={}. What was put aside stays in {}.\n", log,
               store.data_dir, store.LogDirectory(log));
}

// The command was cut short before. All that it needs is there.
Task<Result<ExitCode>> Continue(Reactor* reactor, const Globals* globals, StoreInfo store, uint32_t log, LogCut cut,
                                std::string confirm) {
  const std::string code = CodeText(cut.code);
  if (!confirm.empty() && confirm != code) {
    co_return Error(
        Code::kInvalidArgument,
        "{}: another loss is being accepted already; the command was cut short: repeat it with --confirm {}",
        store.LogDirectory(log), code);
  }
  if (!confirm.empty()) {
    CO_RETURN_IF_ERROR(co_await FinishLogLoss(*reactor, store, log, cut));
    PrintAccepted(*globals, store, log, nullptr);
    co_return kExitOk;
  }
  if (globals->json) {
    PrintJson(
        Json{{"data_dir", store.data_dir}, {"log", log}, {"accepted", false}, {"begun", true}, {"confirm", code}});
  } else {
    tools::Print(
        "log {} of {}: accept-loss was confirmed and cut short. It goes on with: kvadmin accept-loss {} --log {} "
        "--confirm {}\n",
        log, store.data_dir, store.data_dir, log, code);
  }
  co_return kExitNo;
}

}  // namespace

Task<Result<ExitCode>> ShowOrAcceptLogLoss(Reactor* reactor, const Globals* globals, StoreInfo store, uint32_t log,
                                           std::string confirm) {
  if (log < store.reactors) {
    CO_ASSIGN_OR_RETURN(const std::optional<LogCut> begun, co_await FindBegunLogLoss(*reactor, &store, log));
    if (begun) co_return co_await Continue(reactor, globals, std::move(store), log, *begun, std::move(confirm));
  }
  CO_ASSIGN_OR_RETURN(const LogLossReport report, co_await ExamineLogLoss(*reactor, std::move(store), log));
  const uint32_t code = CodeOf(report);
  if (!confirm.empty() && confirm != CodeText(code)) {
    co_return Error(Code::kInvalidArgument,
                    "--confirm {} is not the code for this loss: the store has changed since it was shown; leave "
                    "--confirm out to see the loss and its code. Nothing was changed",
                    confirm);
  }
  if (!confirm.empty()) {
    CO_RETURN_IF_ERROR(co_await AcceptLogLoss(*reactor, &report, code));
    PrintAccepted(*globals, report.store, log, &report);
    co_return kExitOk;
  }
  if (globals->json) {
    PrintJson(ReportJson(report, false));
  } else {
    Show(report);
  }
  co_return kExitNo;
}

}  // namespace pando::admin
