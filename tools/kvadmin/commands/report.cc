// kvadmin report: says what is in a range: records, bytes, the largest prefixes, sizes of values.
#include <fmt/format.h>

#include <algorithm>

#include "src/base/limits.h"
#include "tools/common/interrupts.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/durable.h"
#include "tools/kvadmin/patience.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/range_report.h"
#include "tools/kvadmin/snapshot_lease.h"

namespace pando::admin {

namespace {

constexpr int32_t kSampleParts = 256;

struct ReportOptions {
  RangeOptions range;
  std::string output = "-", format = "table", delimiter = "/";
  uint32_t top = 20, max_prefixes = 1000, prefix_bytes = 4;
  uint64_t sample = 1'000'000;
  uint32_t retry_s = 60;
  bool quiet = false;
};

// Asks the server for what the report says.
class Reporter {
 public:
  Reporter(const Globals& globals, const ReportOptions& options)
      : options_(options),
        client_(globals.target),
        lease_(&client_, SnapshotLease::kWorkingTtl),
        patience_(int64_t{options.retry_s} * 1000),
        progress_("reading sizes", "records", 0, options.quiet || globals.json) {}

  Result<RangeReport> Make(Range range) {
    if (range.snapshot.empty()) {
      RETURN_IF_ERROR(lease_.Open());
      range.snapshot = lease_.token();
    }
    report_.range = std::move(range);
    report_.version = lease_.version();
    ASSIGN_OR_RETURN(report_.sums, Sums(report_.range.start, report_.range.end));
    if (options_.max_prefixes > 0) RETURN_IF_ERROR(FindPrefixes());
    RETURN_IF_ERROR(ReadSizes());
    progress_.Clear();
    RETURN_IF_ERROR(lease_.Release());
    return Result<RangeReport>(std::move(report_));
  }

 private:
  template <typename Reply, typename Request>
  Result<Reply> Ask(KvMethod<Reply, Request> method, const Request& request) {
    if (!lease_.token().empty()) RETURN_IF_ERROR(patience_([&] { return lease_.Keep(); }));
    return patience_([&] { return client_.Call(Client::Repeat::kSafe, method, request); });
  }

  Result<RangeAggregates> Sums(const std::string& start, const std::string& end) {
    api::AggregateRequest request;
    SetRange(report_.range, &request);
    request.start_key = start;
    request.end_key = end;
    ASSIGN_OR_RETURN(const api::AggregateReply reply, Ask(&api::KvIf::aggregate, request));
    return RangeAggregates{static_cast<uint64_t>(reply.count), static_cast<uint64_t>(reply.bytes),
                           static_cast<uint64_t>(reply.content_hash)};
  }

  Status FindPrefixes() {
    const Range& range = report_.range;
    std::vector<RangeReport::Prefix> found;
    std::string start = range.start;
    api::ScanRequest first;
    SetRange(range, &first);
    first.keys_only = true;
    first.limit_rows = 1;
    for (;;) {
      first.start_key = start;
      ASSIGN_OR_RETURN(const api::ScanReply reply, Ask(&api::KvIf::scan, first));
      if (reply.rows.empty()) break;
      const std::string& key = reply.rows.front().key;
      if (found.size() == options_.max_prefixes) {
        report_.looked_up_to = key;
        ASSIGN_OR_RETURN(report_.not_looked_at, Sums(key, range.end));
        break;
      }
      const std::string prefix = GroupOf(key, range.prefix, options_.delimiter, options_.prefix_bytes);
      start = AfterPrefix(prefix);
      const bool last = start.empty() || (!range.end.empty() && start >= range.end);
      ASSIGN_OR_RETURN(const RangeAggregates sums, Sums(key, last ? range.end : start));
      found.push_back({prefix, sums});
      if (last) break;
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const auto& a, const auto& b) { return a.sums.bytes > b.sums.bytes; });
    report_.prefixes_found = found.size();
    for (size_t i = options_.top; i < found.size(); ++i) report_.other_prefixes.Add(found[i].sums);
    found.resize(std::min<size_t>(found.size(), options_.top));
    report_.prefixes = std::move(found);
    return Status();
  }

  Status ReadSizes() {
    const Range& range = report_.range;
    const uint64_t count = report_.sums.count;
    report_.sampled = options_.sample > 0 && count > options_.sample;
    progress_.SetTotal(report_.sampled ? options_.sample : count);
    if (!report_.sampled) return ReadSizes(range.start, range.end, count);
    api::SplitRangeRequest request;
    SetRange(range, &request);
    request.parts = kSampleParts;
    ASSIGN_OR_RETURN(const api::SplitRangeReply reply, Ask(&api::KvIf::splitRange, request));
    const uint64_t each = std::max<uint64_t>(options_.sample / std::max<size_t>(reply.parts.size(), 1), 1);
    for (const api::RangePart& part : reply.parts) RETURN_IF_ERROR(ReadSizes(part.start_key, part.end_key, each));
    return Status();
  }

  // Of at most so many values, from `start` on.
  Status ReadSizes(const std::string& start, const std::string& end, uint64_t most) {
    api::ScanRequest request;
    SetRange(report_.range, &request);
    request.start_key = start;
    request.end_key = end;
    request.sizes_only = true;
    while (most > 0) {
      request.limit_rows = static_cast<int32_t>(std::min<uint64_t>(most, kMaxScanRows));
      ASSIGN_OR_RETURN(const api::ScanReply page, Ask(&api::KvIf::scan, request));
      for (const api::Row& row : page.rows) report_.sizes.Add(static_cast<uint64_t>(row.value_bytes));
      most -= std::min<uint64_t>(most, page.rows.size());
      progress_.Update(report_.sizes.records(), report_.sizes.bytes(), report_.sizes.records());
      request.cursor = page.cursor;
      if (page.cursor.empty()) break;
      RETURN_IF_ERROR(tools::Interrupts::Check());
    }
    return Status();
  }

  const ReportOptions& options_;
  Client client_;
  SnapshotLease lease_;
  const Patience patience_;
  Progress progress_;
  RangeReport report_;
};

Result<ExitCode> Report(const Globals& globals, ReportOptions options) {
  if (options.range.snapshot == "now") options.range.snapshot.clear();
  ASSIGN_OR_RETURN(Range range, BuildRange(options.range));
  Reporter reporter(globals, options);
  ASSIGN_OR_RETURN(const RangeReport report, reporter.Make(std::move(range)));
  const Encoding encoding = options.range.encoding;
  std::string text;
  if (options.format == "svg") {
    text = ReportSvg(report, encoding);
  } else if (options.format == "json" || globals.json) {
    text = JsonText(ReportJson(report)) + "\n";
  } else {
    text = ReportTable(report, encoding);
  }
  if (options.output != "-") {
    RETURN_IF_ERROR(WriteDurably(options.output, text, /*replace=*/true));
  } else {
    tools::WriteOutput(text);
  }
  return kExitOk;
}

}  // namespace

void AddReportCommand(tools::Command app, Globals* globals) {
  auto o = std::make_shared<ReportOptions>();
  tools::Command command =
      app.Add("report", "Say what is in a range: records, bytes, the largest prefixes, sizes of values");
  AddRangeOptions(command, &o->range);
  command.Choice(
      "--format", {"table", "json", "svg"}, [o](const std::string& f) { o->format = f; },
      "table (the default), json or svg");
  command.Text("-o,--output", &o->output, "The file to write; - is standard output").ShowDefault().NotEmpty();
  command.Text("--delimiter", &o->delimiter, "A prefix ends with this").ShowDefault();
  command
      .Number("--prefix-bytes", &o->prefix_bytes, "Of a key without it, so many bytes are its prefix", 1, kMaxKeyBytes)
      .ShowDefault();
  command.Number("--top", &o->top, "So many prefixes, those with the most bytes", 1, 10'000).ShowDefault();
  command.Number("--max-prefixes", &o->max_prefixes, "Look at so many prefixes, in key order; 0: at none", 0, 1'000'000)
      .ShowDefault();
  command.Number("--sample", &o->sample, "Read the sizes of about so many values; 0: of all").ShowDefault();
  command.Number("--retry-s", &o->retry_s, "Repeat a request for so long while a node or a router is away", 0, 86400)
      .ShowDefault();
  command.Flag("-q,--quiet", &o->quiet, "Show no progress");
  command.Footer(
      "All figures are of one snapshot, and exact, except that sizes may be those of a sample: it is taken from 256\n"
      "places of the range. A prefix of --prefix counts from the end of it. With --json, it is one JSON object.\n\n"
      "Examples:\n"
      "  kvadmin report\n"
      "  kvadmin report --prefix user/ --delimiter : --top 50\n"
      "  kvadmin report --format svg -o store.svg");
  OnChosen(command, globals, [=] { return OfManyPartitions(Report(*globals, *o)); });
}

}  // namespace pando::admin
