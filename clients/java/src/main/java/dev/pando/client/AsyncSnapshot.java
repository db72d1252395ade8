package dev.pando.client;

import java.time.Duration;
import java.time.Instant;
import java.util.Collection;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;

/** As {@link Snapshot}, with futures. */
public final class AsyncSnapshot implements AutoCloseable {
  private final KvAsyncCommands commands;
  private final Duration ttl;
  private final byte[] token;
  private final long version;
  private final ScheduledFuture<?> renewal;
  private volatile long expiresAtMillis;

  AsyncSnapshot(KvAsyncCommands commands, Calls.Opened opened, Duration ttl, boolean renew) {
    this.commands = commands;
    this.ttl = ttl;
    token = opened.token();
    version = opened.version();
    expiresAtMillis = opened.expiresAtMillis();
    long third = Math.max(1, ttl.toMillis() / 3);
    renewal = !renew ? null
        : commands.client().timer().scheduleWithFixedDelay(this::renewQuietly, third, third, TimeUnit.MILLISECONDS);
  }

  private void renewQuietly() {
    renew(ttl).whenComplete((done, error) -> {
      Throwable cause = error == null ? null : error.getCause() == null ? error : error.getCause();
      if (cause instanceof SnapshotGoneException) renewal.cancel(false);
    });
  }

  /** Names the snapshot in {@link ReadOptions#snapshot} and so on, also in other processes. */
  public byte[] token() {
    return token.clone();
  }

  /** No write in the snapshot has a higher version, no later one a lower. */
  public long version() {
    return version;
  }

  /** When it expires unless it is renewed. */
  public Instant expiresAt() {
    return Instant.ofEpochMilli(expiresAtMillis);
  }

  /** Lets it live so long from now. */
  public CompletableFuture<Void> renew(Duration lifetime) {
    return commands.execute(Calls.renewSnapshot(token, lifetime)).thenAccept(
        renewed -> expiresAtMillis = renewed.expiresAtMillis());
  }

  /** Reads a record as it was. */
  public CompletableFuture<Optional<KvRecord>> get(byte[] key) {
    return commands.get(key, read());
  }

  /** Reads a record as it was. */
  public CompletableFuture<Optional<KvRecord>> get(String key) {
    return commands.get(key, read());
  }

  /** Reads several records as they were. */
  public CompletableFuture<List<Optional<KvRecord>>> multiGet(Collection<byte[]> keys) {
    return commands.multiGet(keys, read());
  }

  /** Reads the records of a range as they were. */
  public AsyncScan scan(KeyRange range, ScanOptions options) {
    return commands.scan(range, options.snapshot(token));
  }

  /** Counts the records of a range. */
  public CompletableFuture<Long> count(KeyRange range) {
    return commands.count(range, read());
  }

  /** Returns sums over the records of a range. */
  public CompletableFuture<Aggregate> aggregate(KeyRange range) {
    return commands.aggregate(range, read());
  }

  /** Splits a range into parts with about equally many records. */
  public CompletableFuture<List<RangePart>> splitRange(KeyRange range, int parts) {
    return commands.splitRange(range, parts, read());
  }

  /** The options of reads of this snapshot. */
  public ReadOptions read() {
    return ReadOptions.create().snapshot(token);
  }

  /** Releases it now. Completes with false if it was gone already. */
  public CompletableFuture<Boolean> release() {
    if (renewal != null) renewal.cancel(false);
    return commands.execute(Calls.releaseSnapshot(token));
  }

  /** Releases it without waiting for the end. If that fails, the snapshot ends when its lifetime does. */
  @Override
  public void close() {
    release();
  }
}
