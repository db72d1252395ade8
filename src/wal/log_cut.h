// LogCut: ends a damaged log before its damage, once an operator has accepted that what lies behind it is
// lost (`kvadmin accept-loss --log`).
//
// The new end is a segment whose first batch is a cut (kBatchCut), as recovery writes one too. Its file is
// complete before anything else changes, under the name accepted-CODE; a log that holds such a file is not
// read. Then what lies behind the cut gets other names. At last the file gets the name of a segment.
//
// Threads: one reactor, which has the store's lock. Nobody has the log open.
//
// Invariants
//   LC1  Until accepted-CODE is there, the log is as it was. From then on until FinishCut it is refused,
//        and PutAside and FinishCut can be repeated, wherever they stopped.
//   LC2  No segment of the log is overwritten or removed: those behind the cut stay as
//        segment-N.damaged-K. A copy of what lies before the damage in its segment takes the place of that.
//   LC3  The number of the new segment is above that of every segment of this log that a file or a position
//        tells of, so that nothing of them is ever taken for a part of the log again (F1, V3).
#pragma once

#include <optional>
#include <vector>

#include "src/io/directory.h"
#include "src/wal/log_format.h"

namespace pando {

struct LogCut {
  uint32_t code = 0;    // by which the operator has accepted it
  uint64_t number = 0;  // of the new segment
  LogPosition at = 0;   // where the log before it ends; 0: nothing is left
};

struct LogCutContent {
  uint64_t segment_bytes = 0;  // of the new segment, or more if the marks need it
  bool copy_part = false;      // the segment in which the log ends is damaged further on
  std::vector<StreamMark> marks;
};

// The cut that has begun and is not finished. kCorruption: its file is damaged.
Task<Result<std::optional<LogCut>>> FindBegunCut(const Directory* directory, Uuid node);
// On error nothing has changed, except that a sync may have failed (then FindBegunCut tells).
Task<Status> BeginCut(const Directory* directory, Uuid node, LogCut cut, const LogCutContent* content);
Task<Status> PutAside(const Directory* directory, LogCut cut);
Task<Status> FinishCut(const Directory* directory, LogCut cut);

// The name that a segment keeps when it is put aside: segment-N.damaged-K.
std::string AsideName(const std::vector<std::string>& names, std::string_view segment);

}  // namespace pando
