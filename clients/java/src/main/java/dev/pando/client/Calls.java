package dev.pando.client;

import dev.pando.api.AggregateReply;
import dev.pando.api.AggregateRequest;
import dev.pando.api.CountReply;
import dev.pando.api.CountRequest;
import dev.pando.api.DeleteRangeReply;
import dev.pando.api.DeleteRangeRequest;
import dev.pando.api.GetReply;
import dev.pando.api.GetRequest;
import dev.pando.api.HelloReply;
import dev.pando.api.HelloRequest;
import dev.pando.api.IncrementRequest;
import dev.pando.api.Kv;
import dev.pando.api.MultiGetRequest;
import dev.pando.api.OpenSnapshotRequest;
import dev.pando.api.PutRequest;
import dev.pando.api.ReleaseSnapshotReply;
import dev.pando.api.ReleaseSnapshotRequest;
import dev.pando.api.RemoveRequest;
import dev.pando.api.RenewSnapshotRequest;
import dev.pando.api.ScanReply;
import dev.pando.api.ScanRequest;
import dev.pando.api.SnapshotReply;
import dev.pando.api.SplitRangeReply;
import dev.pando.api.SplitRangeRequest;
import dev.pando.api.TouchRequest;
import dev.pando.api.WatchReply;
import dev.pando.api.WatchRequest;
import dev.pando.api.WriteBatchRequest;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.function.Function;

/** Makes the requests of both clients, and what their callers get from the replies. */
final class Calls {
  static final int API_VERSION = 2;

  private Calls() {}

  static Call<HelloReply> hello(String clientName, List<String> features) {
    HelloRequest request = new HelloRequest().setClient_name(clientName).setApi_version(API_VERSION);
    return Call.of("hello", Call.Kind.OTHER, Kv.hello_args::new, Kv.hello_result::new, request.setFeatures(features),
        HelloReply.class, reply -> reply);
  }

  static Call<Optional<KvRecord>> get(byte[] key, ReadOptions options) {
    GetRequest request = new GetRequest().setKey(key(key)).setSnapshot(Bytes.wrap(options.snapshot));
    return Call.of("get", Call.Kind.READ, Kv.get_args::new, Kv.get_result::new, request, GetReply.class,
        reply -> KvRecord.of(reply.record)).with(options);
  }

  static Call<List<Optional<KvRecord>>> multiGet(Collection<byte[]> keys, ReadOptions options) {
    List<ByteBuffer> wrapped = new ArrayList<>(keys.size());
    for (byte[] key : keys) wrapped.add(key(key));
    MultiGetRequest request = new MultiGetRequest().setKeys(wrapped).setSnapshot(Bytes.wrap(options.snapshot));
    return Call.of("multiGet", Call.Kind.READ, Kv.multiGet_args::new, Kv.multiGet_result::new, request,
        () -> new MultiGetTries(request)).with(options);
  }

  static Call<WriteResult> put(byte[] key, byte[] value, WriteOptions options) {
    PutRequest request = new PutRequest().setKey(key(key)).setValue(ByteBuffer.wrap(Objects.requireNonNull(value)));
    request.setCondition(options.condition()).setTtl_mode(options.ttlMode).setTtl_ms(options.ttlMillis);
    request.setExpires_at_ms(options.expiresAtMillis).setReturn_previous(options.returnPrevious);
    return Call.of("put", Call.Kind.WRITE, Kv.put_args::new, Kv.put_result::new, request,
        dev.pando.api.WriteResult.class, WriteResult::of).with(options);
  }

  static Call<WriteResult> remove(byte[] key, WriteOptions options) {
    RemoveRequest request = new RemoveRequest().setKey(key(key)).setCondition(options.condition());
    request.setReturn_previous(options.returnPrevious);
    return Call.of("remove", Call.Kind.WRITE, Kv.remove_args::new, Kv.remove_result::new, request,
        dev.pando.api.WriteResult.class, WriteResult::of).with(options);
  }

  static Call<WriteResult> increment(byte[] key, long delta, WriteOptions options) {
    IncrementRequest request = new IncrementRequest().setKey(key(key)).setDelta(delta);
    request.setCondition(options.condition()).setTtl_mode(options.ttlMode).setTtl_ms(options.ttlMillis);
    request.setExpires_at_ms(options.expiresAtMillis);
    return Call.of("increment", Call.Kind.WRITE, Kv.increment_args::new, Kv.increment_result::new, request,
        dev.pando.api.WriteResult.class, WriteResult::of).with(options);
  }

  static Call<WriteResult> touch(byte[] key, WriteOptions options) {
    TouchRequest request = new TouchRequest().setKey(key(key)).setCondition(options.condition());
    request.setTtl_mode(options.ttlMode).setTtl_ms(options.ttlMillis).setExpires_at_ms(options.expiresAtMillis);
    return Call.of("touch", Call.Kind.WRITE, Kv.touch_args::new, Kv.touch_result::new, request,
        dev.pando.api.WriteResult.class, WriteResult::of).with(options);
  }

  static Call<BatchResult> writeBatch(WriteBatch batch) {
    WriteBatchRequest request = batch.request();
    return Call.of("writeBatch", Call.Kind.WRITE, Kv.writeBatch_args::new, Kv.writeBatch_result::new, request,
        () -> new BatchTries(request)).with(batch.level, null, batch.timeout);
  }

  /** `limit`: the rows that the caller still wants; negative = any number. */
  static Call<ScanPage> scan(KeyRange range, ScanOptions options, byte[] cursor, long limit) {
    ScanRequest request = new ScanRequest().setStart_key(Bytes.wrap(range.start())).setEnd_key(Bytes.wrap(range.end()));
    request.setPrefix(Bytes.wrap(range.prefix())).setReverse(options.reverse).setKeys_only(options.keysOnly);
    request.setSizes_only(options.sizesOnly).setLimit_rows(pageRows(options.pageRows, limit));
    request.setLimit_bytes(options.pageBytes).setCursor(Bytes.wrap(cursor)).setSince(Bytes.wrap(options.since));
    request.setSnapshot(Bytes.wrap(options.read.snapshot)).setSlices(options.slices).setSlice(options.slice);
    return Call.of("scan", Call.Kind.READ, Kv.scan_args::new, Kv.scan_result::new, request, ScanReply.class,
        reply -> new ScanPage(list(reply.rows, Row::of), Bytes.copy(reply.cursor))).with(options.read)
        .ofSnapshot(options.read.snapshot != null || options.since != null);
  }

  private static int pageRows(int pageRows, long limit) {
    if (limit < 0) return pageRows;
    int rows = (int) Math.min(limit, Integer.MAX_VALUE);
    return pageRows > 0 ? Math.min(pageRows, rows) : rows;
  }

  static Call<Long> count(KeyRange range, ReadOptions options) {
    CountRequest request = new CountRequest().setStart_key(Bytes.wrap(range.start()));
    request.setEnd_key(Bytes.wrap(range.end())).setPrefix(Bytes.wrap(range.prefix()));
    return Call.of("count", Call.Kind.READ, Kv.count_args::new, Kv.count_result::new,
        request.setSnapshot(Bytes.wrap(options.snapshot)), CountReply.class, reply -> reply.count).with(options);
  }

  static Call<Aggregate> aggregate(KeyRange range, ReadOptions options) {
    AggregateRequest request = new AggregateRequest().setStart_key(Bytes.wrap(range.start()));
    request.setEnd_key(Bytes.wrap(range.end())).setPrefix(Bytes.wrap(range.prefix()));
    return Call.of("aggregate", Call.Kind.READ, Kv.aggregate_args::new, Kv.aggregate_result::new,
        request.setSnapshot(Bytes.wrap(options.snapshot)), AggregateReply.class,
        reply -> new Aggregate(reply.count, reply.bytes, reply.content_hash)).with(options);
  }

  static Call<List<RangePart>> splitRange(KeyRange range, int parts, ReadOptions options) {
    SplitRangeRequest request = new SplitRangeRequest().setStart_key(Bytes.wrap(range.start())).setParts(parts);
    request.setEnd_key(Bytes.wrap(range.end())).setPrefix(Bytes.wrap(range.prefix()));
    return Call.of("splitRange", Call.Kind.READ, Kv.splitRange_args::new, Kv.splitRange_result::new,
        request.setSnapshot(Bytes.wrap(options.snapshot)), SplitRangeReply.class,
        reply -> list(reply.parts, part -> new RangePart(Bytes.copy(part.start_key), Bytes.copy(part.end_key),
            part.count, part.bytes))).with(options);
  }

  /** One call of those that a deleteRange takes. */
  static Call<Deleted> deleteRange(KeyRange range, DeleteOptions options, byte[] cursor) {
    DeleteRangeRequest request = new DeleteRangeRequest().setStart_key(Bytes.wrap(range.start()));
    request.setEnd_key(Bytes.wrap(range.end())).setPrefix(Bytes.wrap(range.prefix())).setCursor(Bytes.wrap(cursor));
    request.setLimit_rows(options.pageRows).setMax_version(options.maxVersion);
    return Call.of("deleteRange", Call.Kind.REPEATABLE_WRITE, Kv.deleteRange_args::new, Kv.deleteRange_result::new,
        request, DeleteRangeReply.class, reply -> new Deleted(reply.removed, Bytes.copy(reply.cursor)))
        .with(options.level, null, options.timeout);
  }

  record Deleted(long removed, byte[] cursor) {}

  /** A snapshot as the server answers it. */
  record Opened(byte[] token, long version, long expiresAtMillis) {
    static Opened of(SnapshotReply reply) {
      return new Opened(Bytes.copy(reply.snapshot), reply.version, reply.expires_at_ms);
    }
  }

  static Call<Opened> openSnapshot(Duration ttl) {
    return Call.of("openSnapshot", Call.Kind.OTHER, Kv.openSnapshot_args::new, Kv.openSnapshot_result::new,
        new OpenSnapshotRequest().setTtl_ms(millis(ttl)), SnapshotReply.class, Opened::of);
  }

  static Call<Opened> renewSnapshot(byte[] token, Duration ttl) {
    RenewSnapshotRequest request = new RenewSnapshotRequest().setSnapshot(Bytes.wrap(token)).setTtl_ms(millis(ttl));
    return Call.of("renewSnapshot", Call.Kind.OTHER, Kv.renewSnapshot_args::new, Kv.renewSnapshot_result::new, request,
        SnapshotReply.class, Opened::of);
  }

  static Call<Boolean> releaseSnapshot(byte[] token) {
    return Call.of("releaseSnapshot", Call.Kind.OTHER, Kv.releaseSnapshot_args::new, Kv.releaseSnapshot_result::new,
        new ReleaseSnapshotRequest().setSnapshot(Bytes.wrap(token)), ReleaseSnapshotReply.class,
        reply -> reply.existed);
  }

  /** `wait` must be within the call's timeout. */
  static Call<WatchPage> watch(byte[] prefix, byte[] position, long afterVersion, Duration wait, int maxChanges) {
    WatchRequest request = new WatchRequest().setPrefix(Bytes.wrap(prefix)).setPosition(Bytes.wrap(position));
    request.setAfter_version(afterVersion).setWait_ms(millis(wait)).setLimit_changes(maxChanges);
    return Call.of("watch", Call.Kind.OTHER, Kv.watch_args::new, Kv.watch_result::new, request, WatchReply.class,
        Calls::page);
  }

  private static WatchPage page(WatchReply reply) {
    return new WatchPage(list(reply.changes,
        change -> new Change(Bytes.copy(change.key), change.version, change.removed)), Bytes.copy(reply.position),
        reply.more);
  }

  static <A, B> List<B> list(List<A> items, Function<A, B> map) {
    if (items == null) return List.of();
    List<B> mapped = new ArrayList<>(items.size());
    for (A item : items) mapped.add(map.apply(item));
    return mapped;
  }

  static List<byte[]> utf8(String[] keys) {
    return list(List.of(keys), Bytes::utf8);
  }

  static int millis(Duration duration) {
    return (int) Math.max(0, Math.min(Integer.MAX_VALUE, duration.toMillis()));
  }

  private static ByteBuffer key(byte[] key) {
    return ByteBuffer.wrap(Objects.requireNonNull(key, "the key is null"));
  }
}
