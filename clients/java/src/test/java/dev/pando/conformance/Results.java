package dev.pando.conformance;

import dev.pando.client.Aggregate;
import dev.pando.client.BadRequestException;
import dev.pando.client.BatchResult;
import dev.pando.client.Change;
import dev.pando.client.CorruptException;
import dev.pando.client.DeadlineException;
import dev.pando.client.DiskFullException;
import dev.pando.client.FeedGoneException;
import dev.pando.client.InternalException;
import dev.pando.client.KvRecord;
import dev.pando.client.PandoException;
import dev.pando.client.RangePart;
import dev.pando.client.Row;
import dev.pando.client.ServerInfo;
import dev.pando.client.SessionLostException;
import dev.pando.client.SnapshotGoneException;
import dev.pando.client.UnavailableException;
import dev.pando.client.WriteResult;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;

/** What calls return and throw, in the form that steps expect. */
final class Results {
  private Results() {}

  static Map<String, Object> map(Object... namesAndValues) {
    Map<String, Object> map = new LinkedHashMap<>();
    for (int i = 0; i < namesAndValues.length; i += 2) map.put((String) namesAndValues[i], namesAndValues[i + 1]);
    return map;
  }

  static <T> List<Object> list(List<T> items, Function<T, ?> map) {
    List<Object> list = new ArrayList<>();
    for (T item : items) list.add(map.apply(item));
    return list;
  }

  static Object record(Optional<KvRecord> record) {
    return record.map(r -> map("value", r.value(), "version", r.version(), "expires_at_ms", r.expiresAtMillis()))
        .orElse(null);
  }

  static Map<String, Object> write(WriteResult result) {
    return map("applied", result.applied(), "version", result.version(), "existed", result.existed(), "current",
        record(result.current()), "number", result.number().isPresent() ? result.number().getAsLong() : null, "previous",
        record(result.previous()), "previous_omitted", result.previousValueOmitted(), "withheld", result.withheld(),
        "error", result.error().map(Results::error).orElse(null));
  }

  static Object batch(BatchResult result) {
    return map("results", list(result.results(), Results::write), "failed_conditions", list(result.failedConditions(),
        failed -> map("index", (long) failed.index(), "current", record(failed.current()))));
  }

  static Object rows(List<Row> rows, int pages, byte[] cursor) {
    return map("rows", list(rows, Results::row), "keys", list(rows, Row::key), "count", (long) rows.size(), "pages",
        (long) pages, "cursor", cursor);
  }

  private static Object row(Row row) {
    return map("key", row.key(), "value", row.value(), "version", row.version(), "expires_at_ms", row.expiresAtMillis(),
        "removed", row.removed(), "value_bytes", row.valueBytes().isPresent() ? row.valueBytes().getAsLong() : null);
  }

  static Object aggregate(Aggregate sums) {
    return map("count", sums.count(), "bytes", sums.bytes(), "content_hash", sums.contentHash());
  }

  static Object parts(List<RangePart> parts) {
    return map("parts", list(parts, part -> map("start", part.start(), "end", part.end(), "count", part.count(), "bytes",
        part.bytes())), "total", parts.stream().mapToLong(RangePart::count).sum());
  }

  static Object change(Change change) {
    return map("key", change.key(), "version", change.version(), "removed", change.removed());
  }

  static Object info(ServerInfo info) {
    ServerInfo.Limits limits = info.limits();
    return map("server_version", info.serverVersion(), "api_version", (long) info.apiVersion(), "cluster_id",
        info.clusterId(), "features", list(info.features(), feature -> feature), "limits",
        map("max_key_bytes", (long) limits.maxKeyBytes(), "max_value_bytes", (long) limits.maxValueBytes(),
            "max_batch_ops", (long) limits.maxBatchOps(), "max_batch_bytes", (long) limits.maxBatchBytes(),
            "max_multi_get_keys", (long) limits.maxMultiGetKeys(), "max_frame_bytes", (long) limits.maxFrameBytes(),
            "max_scan_rows", (long) limits.maxScanRows(), "max_scan_bytes", (long) limits.maxScanBytes()));
  }

  static Object error(PandoException error) {
    Long tries = error instanceof DeadlineException deadline ? (long) deadline.tries() : null;
    Object cause = error.getCause() instanceof PandoException inner ? error(inner) : null;
    return map("code", error.codeName(), "number", (long) error.code(), "applied", error.applied().name(), "retryable",
        error.retryable(), "kind", kind(error), "message", error.getMessage(), "tries", tries, "cause", cause);
  }

  private static String kind(PandoException error) {
    if (error instanceof BadRequestException) return "BadRequest";
    if (error instanceof UnavailableException) return "Unavailable";
    if (error instanceof DeadlineException) return "Deadline";
    if (error instanceof SnapshotGoneException) return "SnapshotGone";
    if (error instanceof FeedGoneException) return "FeedGone";
    if (error instanceof SessionLostException) return "SessionLost";
    if (error instanceof DiskFullException) return "DiskFull";
    if (error instanceof CorruptException) return "Corrupt";
    return error instanceof InternalException ? "Internal" : "PandoError";
  }
}
