package dev.pando.client;

import java.time.Duration;
import java.time.Instant;
import java.util.Collection;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;

/**
 * One moment of the whole cluster. It has a lifetime, which the client renews in the background at a third of it, and
 * keeps replaced data on the servers' disks until it is closed. Thread-safe.
 *
 * <p>Its reads throw {@link SnapshotGoneException} once it has expired, was closed, or was lost in a restart.
 */
public final class Snapshot implements AutoCloseable {
  static final Duration DEFAULT_TTL = Duration.ofMinutes(1);

  private static final Duration RELEASE_TIMEOUT = Duration.ofSeconds(2);

  private final KvCommands commands;
  private final Duration ttl;
  private final byte[] token;
  private final long version;
  private final ScheduledFuture<?> renewal;
  private volatile long expiresAtMillis;
  private volatile boolean released;

  Snapshot(KvCommands commands, Duration ttl, boolean renew) {
    this.commands = commands;
    this.ttl = ttl;
    Calls.Opened opened = commands.execute(Calls.openSnapshot(ttl));
    token = opened.token();
    version = opened.version();
    expiresAtMillis = opened.expiresAtMillis();
    renewal = renew ? schedule() : null;
  }

  private ScheduledFuture<?> schedule() {
    long third = Math.max(1, ttl.toMillis() / 3);
    return commands.timer().scheduleWithFixedDelay(() -> renewQuietly(third), third, third,
        TimeUnit.MILLISECONDS);
  }

  /** What a renewal fails with shows at the next read, if it lasts. */
  private void renewQuietly(long timeoutMillis) {
    try {
      Duration timeout = Duration.ofMillis(Math.max(100, timeoutMillis));
      expiresAtMillis = commands.execute(Calls.renewSnapshot(token, ttl).timeout(timeout)).expiresAtMillis();
    } catch (SnapshotGoneException e) {
      renewal.cancel(false);
    } catch (PandoException e) {
      // The next one may succeed.
    }
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
  public void renew(Duration lifetime) {
    expiresAtMillis = commands.execute(Calls.renewSnapshot(token, lifetime)).expiresAtMillis();
  }

  /** Reads a record as it was. */
  public Optional<KvRecord> get(byte[] key) {
    return commands.get(key, read());
  }

  /** Reads a record as it was. */
  public Optional<KvRecord> get(String key) {
    return commands.get(key, read());
  }

  /** Reads several records as they were. */
  public List<Optional<KvRecord>> multiGet(Collection<byte[]> keys) {
    return commands.multiGet(keys, read());
  }

  /** Reads several records as they were. */
  public List<Optional<KvRecord>> multiGet(String... keys) {
    return commands.multiGet(Calls.utf8(keys), read());
  }

  /** Reads the records of a range as they were. */
  public ScanIterator scan(KeyRange range) {
    return scan(range, ScanOptions.create());
  }

  /** Reads the records of a range as they were. */
  public ScanIterator scan(KeyRange range, ScanOptions options) {
    return commands.scan(range, options.snapshot(token));
  }

  /** Counts the records of a range. */
  public long count(KeyRange range) {
    return commands.count(range, read());
  }

  /** Returns sums over the records of a range. */
  public Aggregate aggregate(KeyRange range) {
    return commands.aggregate(range, read());
  }

  /** Splits a range into parts with about equally many records. */
  public List<RangePart> splitRange(KeyRange range, int parts) {
    return commands.splitRange(range, parts, read());
  }

  /** The options of reads of this snapshot. */
  public ReadOptions read() {
    return ReadOptions.create().snapshot(token);
  }

  /** Releases it now. Returns false if it was gone already. */
  public boolean release() {
    stopRenewing();
    return commands.execute(Calls.releaseSnapshot(token));
  }

  private void stopRenewing() {
    released = true;
    if (renewal != null) renewal.cancel(false);
  }

  /** Releases it. An error is not reported: the snapshot then ends when its lifetime does. */
  @Override
  public void close() {
    if (released) return;
    stopRenewing();
    try {
      commands.execute(Calls.releaseSnapshot(token).timeout(RELEASE_TIMEOUT));
    } catch (PandoException e) {
      // It expires.
    }
  }
}
