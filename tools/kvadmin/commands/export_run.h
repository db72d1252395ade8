// What kvadmin export does: reads a range at one snapshot, and writes it to a file. Several files, each with a part of
// the range, are written one after the other in one session.
//
// Threads: one, and those of RangeReaders and ImpactGuard.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/model/types.h"
#include "tools/kvadmin/client.h"
#include "tools/kvadmin/commands/commands.h"
#include "tools/kvadmin/export_file.h"
#include "tools/kvadmin/export_format.h"
#include "tools/kvadmin/file_chunk.h"
#include "tools/kvadmin/impact_guard.h"
#include "tools/kvadmin/patience.h"
#include "tools/kvadmin/progress.h"
#include "tools/kvadmin/range.h"
#include "tools/kvadmin/snapshot_lease.h"

namespace pando::admin {

struct ExportOptions {
  RangeOptions range;
  std::string output = "-";
  std::optional<ExportFormat> format;
  ParquetCompression compression = ParquetCompression::kZstd;
  bool compression_given = false, row_group_given = false;
  bool resume = false, quiet = false, latest = false, no_verify = false;
  bool verify() const { return !latest && !no_verify; }
  bool to_file() const { return output != "-"; }
  ExportStyle style() const {
    return {format.value_or(ExportFormatOfFile(output)), range.encoding == Encoding::kBase64, compression};
  }
  uint32_t page_rows = 2000;
  uint64_t save_every_mb = 64;
  uint64_t row_group_mb = 16;
  uint32_t parallel = 4;
  uint32_t retry_s = 60;
  uint32_t max_impact = 0;  // percent; 0: not limited
  int32_t parts = 0;        // 0: one file, else a directory of so many
};

// One run of the command.
class ExportSession {
 public:
  ExportSession(const Globals& g, const ExportOptions& o);
  // Asks who the server is. First.
  Status Hello();
  // The snapshot to read: the one given by --snapshot, `before`, of the export that is resumed, or a new one if that is
  // empty. With --latest there is none.
  Status ChooseSnapshot(const std::string& before);
  // The same for the snapshot of an export that is resumed, and renews it, while something else takes long.
  Status KeepSnapshot(const std::string& before);
  // The export begins anew, so the snapshot that an interrupted one has left is of no use. An empty one is none. If it
  // cannot be released, it expires.
  void Discard(const std::string& snapshot);
  // What the store counts in the whole range. It says how to split the range, and what must be there in the end. And,
  // with --max-impact, measures the foreground as it is now, and begins to watch it. After ChooseSnapshot.
  Status Prepare();
  // What was written must be what the store counts in the range.
  Status CheckWhole(const RangeAggregates& wanted, const RangeAggregates& written) const;
  // Of the range, or a part of it, in a file: what must be the same for an export to be continued.
  std::string Identity(const Range& of) const;
  // Says that what is asked for is there already, as its manifest says.
  void ReportComplete(const Json& manifest, uint64_t file_bytes) const;
  // Releases the snapshot, and says what was done. `written`: into files of so many bytes.
  void Report(const RangeAggregates& written, uint64_t not_text, uint64_t file_bytes);
  // Whether there are routers, which all know the snapshot.
  bool routers() const { return node.starts_with("router of cluster "); }

  const Globals& globals;
  const ExportOptions& options;
  const ExportStyle style;
  Client client;
  SnapshotLease lease;
  const Patience patience;
  Progress progress;
  std::string node;            // which was asked, or "router of cluster UUID"
  Range range;                 // the whole one, with the snapshot
  std::string given_snapshot;  // by --snapshot; empty: none
  RangeAggregates expected;    // in it
  int64_t map_version = 0;     // of the cluster's map, which routers say when the export begins; 0: a node was asked
  RangeAggregates done;        // in the files that are complete
  RangeAggregates resumed;     // what earlier runs have written
  std::unique_ptr<ImpactGuard> guard;
  ChunkPool pool;  // of what is written

 private:
  Status StartGuard();
};

// The export of one range to one file.
class FileExport {
 public:
  // `part`: the session's range, or a part of it. `session` must outlive the object.
  FileExport(ExportSession* session, std::string output, Range part);
  // The manifest of a complete export like this one, or null. The error says that there is another one.
  Result<Json> FindComplete() const { return FindCompleteExport(output_, session_->Identity(range_)); }
  // Opens the file, or that of the export that is resumed, and says in `snapshot` which one that was reading.
  Status Open(bool resume, std::string* snapshot);
  // Lets a later export that begins anew know the session's snapshot.
  Status NoteSnapshot();
  // `expected`: what the store counts in the part; the hash may be unknown if `check` is false.
  Status Run(const RangeAggregates& expected, bool check);
  // Ends an export that failed or was interrupted. If possible, its rows and its snapshot are kept for --resume.
  // Returns `why`, with what was kept. Run does this itself.
  Status CutShort(Status why);

  // What is in the file.
  const RangeAggregates& sums() const { return sums_; }
  uint64_t not_text() const { return not_text_; }
  uint64_t file_bytes() const { return file_.bytes(); }
  std::string Manifest() const;
  // Of the export that Open has thrown away; empty: there is none.
  const std::string& discarded_snapshot() const { return file_.discarded_snapshot(); }

 private:
  ExportFile::Position Position() const;
  std::string SumsText() const;
  Status RestoreSums(const std::string& text);
  Status WriteRows(const RangeAggregates& expected);

  ExportSession* const session_;
  const std::string output_;
  Range range_;
  ExportFile file_;
  ExportFormatEnds ends_;
  RangeAggregates sums_;   // the hash only if the rows are verified
  uint64_t not_text_ = 0;  // RowEncoder::Piece::not_text
  uint64_t saved_rows_ = 0;
  std::string next_key_;  // all below is written
  // What was written after the last saved position is not to be kept: CheckWhole has failed, a piece was written in
  // part, or it is the end of the file.
  bool has_gap_ = false;
};

}  // namespace pando::admin
