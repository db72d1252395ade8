package dev.pando.client;

import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.ScheduledExecutorService;

/**
 * What can be asked of a cluster, by blocking calls. {@link PandoClient} and {@link Session} have these methods.
 *
 * <p>Each call has a timeout (from its options, else the client's), within which the client repeats what failed for
 * reasons that may pass; a write that is repeated is still applied once. All calls throw {@link PandoException}: {@link
 * DeadlineException} if the time is over, {@link BadRequestException} if the request is wrong, and so on. Strings are
 * UTF-8. Arrays that are passed in must not change during the call; those that are returned belong to the caller.
 */
public abstract class KvCommands {
  KvCommands() {}

  abstract <T> T execute(Call<T> call);

  /** Whose connections watches use. */
  abstract PandoClient client();

  /** The thread that renews snapshots. */
  abstract ScheduledExecutorService timer();

  /** As {@link #get(byte[], ReadOptions)}. */
  public Optional<KvRecord> get(byte[] key) {
    return get(key, ReadOptions.create());
  }

  /** As {@link #get(byte[], ReadOptions)}. */
  public Optional<KvRecord> get(String key) {
    return get(Bytes.utf8(key), ReadOptions.create());
  }

  /** Reads a record. Returns empty if there is none. */
  public Optional<KvRecord> get(byte[] key, ReadOptions options) {
    return execute(Calls.get(key, options));
  }

  /** As {@link #get(byte[], ReadOptions)}. */
  public Optional<KvRecord> get(String key, ReadOptions options) {
    return get(Bytes.utf8(key), options);
  }

  /** As {@link #multiGet(Collection, ReadOptions)}. */
  public List<Optional<KvRecord>> multiGet(Collection<byte[]> keys) {
    return multiGet(keys, ReadOptions.create());
  }

  /** As {@link #multiGet(Collection, ReadOptions)}. */
  public List<Optional<KvRecord>> multiGet(String... keys) {
    return multiGet(Calls.utf8(keys), ReadOptions.create());
  }

  /**
   * Reads several records. Each is read on its own, unless the options name a snapshot. Returns one entry for each key,
   * in their order; empty where there is no record.
   */
  public List<Optional<KvRecord>> multiGet(Collection<byte[]> keys, ReadOptions options) {
    return execute(Calls.multiGet(keys, options));
  }

  /** As {@link #put(byte[], byte[], WriteOptions)}. */
  public WriteResult put(byte[] key, byte[] value) {
    return put(key, value, WriteOptions.create());
  }

  /** As {@link #put(byte[], byte[], WriteOptions)}. */
  public WriteResult put(String key, String value) {
    return put(Bytes.utf8(key), Bytes.utf8(value), WriteOptions.create());
  }

  /**
   * Creates or replaces a record. An existing one keeps its expiry unless the options say otherwise. If a condition of
   * the options does not hold, the result says so.
   */
  public WriteResult put(byte[] key, byte[] value, WriteOptions options) {
    return execute(Calls.put(key, value, options));
  }

  /** As {@link #put(byte[], byte[], WriteOptions)}. */
  public WriteResult put(String key, String value, WriteOptions options) {
    return put(Bytes.utf8(key), Bytes.utf8(value), options);
  }

  /** As {@link #remove(byte[], WriteOptions)}. */
  public WriteResult remove(byte[] key) {
    return remove(key, WriteOptions.create());
  }

  /** As {@link #remove(byte[], WriteOptions)}. */
  public WriteResult remove(String key) {
    return remove(Bytes.utf8(key), WriteOptions.create());
  }

  /** Removes a record. If there is none, that succeeds and changes nothing. */
  public WriteResult remove(byte[] key, WriteOptions options) {
    return execute(Calls.remove(key, options));
  }

  /** As {@link #remove(byte[], WriteOptions)}. */
  public WriteResult remove(String key, WriteOptions options) {
    return remove(Bytes.utf8(key), options);
  }

  /**
   * Adds to a number, which is kept as decimal text; a missing record counts as 0. {@link WriteResult#number()} is the
   * sum. Fails with BAD_REQUEST if the value is no number or the sum has more than 64 bits.
   */
  public WriteResult increment(byte[] key, long delta, WriteOptions options) {
    return execute(Calls.increment(key, delta, options));
  }

  /** As {@link #increment(byte[], long, WriteOptions)}. */
  public WriteResult increment(String key, long delta, WriteOptions options) {
    return increment(Bytes.utf8(key), delta, options);
  }

  /**
   * Changes the expiry of a record, and leaves its value as it is. The options must say which expiry. If there is no
   * record, the result is not applied.
   */
  public WriteResult touch(byte[] key, WriteOptions options) {
    return execute(Calls.touch(key, options));
  }

  /** As {@link #touch(byte[], WriteOptions)}. */
  public WriteResult touch(String key, WriteOptions options) {
    return touch(Bytes.utf8(key), options);
  }

  /**
   * Sends several writes together. Each has a result of its own, which may be an error. While some fail in a way that may
   * pass, the batch is sent again under the same name until its time is over: what was applied is not applied again.
   */
  public BatchResult writeBatch(WriteBatch batch) {
    return execute(Calls.writeBatch(batch));
  }

  /** Reads one page of a scan. Continue with the page's cursor in the options. */
  public ScanPage scanPage(KeyRange range, ScanOptions options) {
    return execute(Calls.scan(range, options, options.cursor, options.limit));
  }

  /** As {@link #count(KeyRange, ReadOptions)}. */
  public long count(KeyRange range) {
    return count(range, ReadOptions.create());
  }

  /** Counts the records of a range. */
  public long count(KeyRange range, ReadOptions options) {
    return execute(Calls.count(range, options));
  }

  /** As {@link #aggregate(KeyRange, ReadOptions)}. */
  public Aggregate aggregate(KeyRange range) {
    return aggregate(range, ReadOptions.create());
  }

  /** Returns sums over the records of a range, in a time that hardly depends on its size. */
  public Aggregate aggregate(KeyRange range, ReadOptions options) {
    return execute(Calls.aggregate(range, options));
  }

  /** As {@link #splitRange(KeyRange, int, ReadOptions)}. */
  public List<RangePart> splitRange(KeyRange range, int parts) {
    return splitRange(range, parts, ReadOptions.create());
  }

  /**
   * Splits a range into 2 to 256 parts with about equally many records, for parallel jobs. Returns fewer if there are
   * few records.
   */
  public List<RangePart> splitRange(KeyRange range, int parts, ReadOptions options) {
    return execute(Calls.splitRange(range, parts, options));
  }
  /** Adds 1 to a number, and returns the sum. See {@link #increment(byte[], long, WriteOptions)}. */
  public long increment(byte[] key) {
    return increment(key, 1);
  }

  /** Adds 1 to a number, and returns the sum. See {@link #increment(byte[], long, WriteOptions)}. */
  public long increment(String key) {
    return increment(key, 1);
  }

  /** Adds to a number, and returns the sum. See {@link #increment(byte[], long, WriteOptions)}. */
  public long increment(byte[] key, long delta) {
    return increment(key, delta, WriteOptions.create()).number().orElseThrow();
  }

  /** Adds to a number, and returns the sum. See {@link #increment(byte[], long, WriteOptions)}. */
  public long increment(String key, long delta) {
    return increment(Bytes.utf8(key), delta);
  }

  /** As {@link #scan(KeyRange, ScanOptions)}. */
  public ScanIterator scan(KeyRange range) {
    return scan(range, ScanOptions.create());
  }

  /**
   * Reads the records of a range in the order of their keys, page by page as the iterator asks for them. Without a
   * snapshot, each page shows its own moment.
   */
  public ScanIterator scan(KeyRange range, ScanOptions options) {
    return new ScanIterator(this, range, options);
  }

  /** As {@link #deleteRange(KeyRange, DeleteOptions)}. */
  public long deleteRange(KeyRange range) {
    return deleteRange(range, DeleteOptions.create());
  }

  /**
   * Removes the records of a range, with as many requests as it takes, and returns how many it removed. It is not
   * atomic. After an error, any part of it may have been executed; calling again does no harm. If an answer was lost, the
   * number lacks what that request had removed.
   */
  public long deleteRange(KeyRange range, DeleteOptions options) {
    long removed = 0;
    byte[] cursor = Bytes.EMPTY;
    do {
      Calls.Deleted part = execute(Calls.deleteRange(range, options, cursor));
      removed += part.removed();
      cursor = part.cursor();
    } while (cursor.length > 0);
    return removed;
  }

  /** Opens a snapshot with a lifetime of a minute, which is renewed in the background until it is closed. */
  public Snapshot snapshot() {
    return snapshot(Snapshot.DEFAULT_TTL, true);
  }

  /** Opens a snapshot with this lifetime, which is renewed in the background until it is closed. */
  public Snapshot snapshot(Duration ttl) {
    return snapshot(ttl, true);
  }

  /**
   * Opens a snapshot of one moment of the whole cluster.
   *
   * @param ttl its lifetime, unless it is renewed
   * @param renew whether the client renews it in the background until it is closed
   */
  public Snapshot snapshot(Duration ttl, boolean renew) {
    return new Snapshot(this, ttl, renew);
  }

  /** Watches the keys that begin with a prefix, from now on. As {@link #watch(byte[], WatchOptions)}. */
  public WatchIterator watch(String prefix) {
    return watch(Bytes.utf8(prefix), WatchOptions.create());
  }

  /** As {@link #watch(byte[], WatchOptions)}. */
  public WatchIterator watch(String prefix, WatchOptions options) {
    return watch(Bytes.utf8(prefix), options);
  }

  /**
   * Waits for changes of the records whose keys begin with a prefix. The iterator has a connection of its own; close it.
   * It never misses a change silently, but may report one twice.
   */
  public WatchIterator watch(byte[] prefix, WatchOptions options) {
    return new WatchIterator(client(), prefix, options);
  }
}
