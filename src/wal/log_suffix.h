// FindSufficientSuffix: where the log can be read from when a part before is damaged that recovery does
// not need any more, because it was kept for readers only (LogOptions::retained_bytes).
//
// What recovery needs of a partition is stated by its last mark: the units above released_lsn, up to
// durable_lsn. Every segment begins with a mark of every partition (L9), so a suffix that holds a batch
// says what is needed of each, as far as it was durable then. A suffix counts only if all before it was.
//
// Threads: one reactor.
#pragma once

#include <functional>

#include "src/wal/log_reader.h"

namespace pando {

// `damage` is the error that reading the whole log with `options` has ended with. Returns the number of
// the first segment of a suffix that can be read to its end and holds all that is needed; `damage` if
// there is none. `means_nothing`: what a batch holds of the partition does not count.
Task<Result<uint64_t>> FindSufficientSuffix(Reactor& reactor, LogReader::Options options, Status damage,
                                            std::function<bool(const Uuid&, const LogEntry&)> means_nothing);

}  // namespace pando
