package dev.pando.client;

import java.util.Objects;

/**
 * The keys from {@code start} (inclusive) to {@code end} (exclusive; empty = no end), narrowed to those that begin with
 * {@code prefix}. Keys are ordered by their unsigned bytes.
 *
 * @param start the first key
 * @param end the key before which the range ends
 * @param prefix what all keys begin with
 */
public record KeyRange(byte[] start, byte[] end, byte[] prefix) {
  private static final KeyRange ALL = new KeyRange(Bytes.EMPTY, Bytes.EMPTY, Bytes.EMPTY);

  /** Null stands for empty. */
  public KeyRange {
    start = Objects.requireNonNullElse(start, Bytes.EMPTY);
    end = Objects.requireNonNullElse(end, Bytes.EMPTY);
    prefix = Objects.requireNonNullElse(prefix, Bytes.EMPTY);
  }

  /** All keys. */
  public static KeyRange all() {
    return ALL;
  }

  /** The keys that begin with the prefix. */
  public static KeyRange prefix(byte[] prefix) {
    return new KeyRange(Bytes.EMPTY, Bytes.EMPTY, prefix);
  }

  /** The keys that begin with the prefix. */
  public static KeyRange prefix(String prefix) {
    return prefix(Bytes.utf8(prefix));
  }

  /** The keys from {@code start} to before {@code end}. */
  public static KeyRange of(byte[] start, byte[] end) {
    return new KeyRange(start, end, Bytes.EMPTY);
  }

  /** The keys from {@code start} to before {@code end}. */
  public static KeyRange of(String start, String end) {
    return of(Bytes.utf8(start), Bytes.utf8(end));
  }
}
