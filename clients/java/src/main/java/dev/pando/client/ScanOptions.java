package dev.pando.client;

import java.time.Duration;

/** Options of scans. Immutable; each method returns a changed copy. */
public final class ScanOptions implements Cloneable {
  private static final ScanOptions DEFAULTS = new ScanOptions();

  boolean reverse;
  boolean keysOnly;
  boolean sizesOnly;
  long limit = -1;
  int pageRows;
  int pageBytes;
  byte[] cursor = Bytes.EMPTY;
  byte[] since;
  int slices;
  int slice;
  ReadOptions read = ReadOptions.create();

  private ScanOptions() {}

  /** All rows, forward, with their values. */
  public static ScanOptions create() {
    return DEFAULTS;
  }

  private ScanOptions copy() {
    try {
      return (ScanOptions) clone();
    } catch (CloneNotSupportedException e) {
      throw new AssertionError(e);
    }
  }

  /** Reads the range from its end. */
  public ScanOptions reverse() {
    ScanOptions copy = copy();
    copy.reverse = true;
    return copy;
  }

  /** Leaves out the values. */
  public ScanOptions keysOnly() {
    ScanOptions copy = copy();
    copy.keysOnly = true;
    return copy;
  }

  /** Leaves out the values, and sends their sizes. */
  public ScanOptions sizesOnly() {
    ScanOptions copy = copy();
    copy.sizesOnly = true;
    return copy;
  }

  /** Ends the scan after so many rows. */
  public ScanOptions limit(long rows) {
    if (rows < 0) throw new IllegalArgumentException("the limit is " + rows + "; it must not be negative");
    ScanOptions copy = copy();
    copy.limit = rows;
    return copy;
  }

  /** The maximum number of rows that one request asks for; 0 = the server's limit. */
  public ScanOptions pageRows(int rows) {
    ScanOptions copy = copy();
    copy.pageRows = rows;
    return copy;
  }

  /** The maximum number of bytes that one request asks for; 0 = the server's limit. */
  public ScanOptions pageBytes(int bytes) {
    ScanOptions copy = copy();
    copy.pageBytes = bytes;
    return copy;
  }

  /** Continues where an earlier scan of the same range, direction, snapshot and slice had its cursor. */
  public ScanOptions cursor(byte[] value) {
    ScanOptions copy = copy();
    copy.cursor = value;
    return copy;
  }

  /** Returns only what changed since an older open snapshot; the argument is {@link Snapshot#token()}. */
  public ScanOptions since(byte[] token) {
    ScanOptions copy = copy();
    copy.since = token;
    return copy;
  }

  /**
   * Returns only the rows of one of several slices, into which keys are dealt by their hash. Jobs that need no order
   * over all rows read the slices side by side.
   *
   * @param slice its number, from 0
   * @param slices how many there are; at most 65536
   */
  public ScanOptions slice(int slice, int slices) {
    ScanOptions copy = copy();
    copy.slice = slice;
    copy.slices = slices;
    return copy;
  }

  /** Reads an open snapshot; the argument is {@link Snapshot#token()}. */
  public ScanOptions snapshot(byte[] token) {
    return read(read.snapshot(token));
  }

  /** How long each request of the scan may take, with all its tries. */
  public ScanOptions timeout(Duration value) {
    return read(read.timeout(value));
  }

  /** The level, snapshot and timeout of each request. */
  public ScanOptions read(ReadOptions options) {
    ScanOptions copy = copy();
    copy.read = options;
    return copy;
  }
}
