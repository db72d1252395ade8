package dev.pando.client;

/**
 * A part of a range that was split for parallel jobs.
 *
 * @param start its first key
 * @param end the key before which it ends; empty = no end
 * @param count the number of records at the moment of the call or of the snapshot
 * @param bytes the total size of their keys and values
 */
public record RangePart(byte[] start, byte[] end, long count, long bytes) {
  /** The part as a range to scan. */
  public KeyRange range() {
    return KeyRange.of(start, end);
  }
}
