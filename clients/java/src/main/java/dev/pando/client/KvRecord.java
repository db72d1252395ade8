package dev.pando.client;

import java.time.Instant;
import java.util.Arrays;
import java.util.Optional;

/**
 * A record as it was read.
 *
 * @param value its bytes; the array belongs to the caller
 * @param version with which {@link WriteOptions#ifVersion} compares; every write gives a record a higher one
 * @param expiresAtMillis Unix time in ms at which it expires; 0 = never
 */
public record KvRecord(byte[] value, long version, long expiresAtMillis) {
  /** The value as UTF-8 text. */
  public String valueAsString() {
    return Bytes.text(value);
  }

  /** When it expires; empty = never. */
  public Optional<Instant> expiresAt() {
    return expiresAtMillis == 0 ? Optional.empty() : Optional.of(Instant.ofEpochMilli(expiresAtMillis));
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof KvRecord record && version == record.version && expiresAtMillis == record.expiresAtMillis
        && Arrays.equals(value, record.value);
  }

  @Override
  public int hashCode() {
    return 31 * Arrays.hashCode(value) + Long.hashCode(version);
  }

  @Override
  public String toString() {
    return "KvRecord[" + value.length + " bytes, version=" + version + ", expiresAtMillis=" + expiresAtMillis + "]";
  }

  static Optional<KvRecord> of(dev.pando.api.Record record) {
    if (record == null || !record.found) return Optional.empty();
    return Optional.of(new KvRecord(Bytes.copy(record.value), record.version, record.expires_at_ms));
  }
}
