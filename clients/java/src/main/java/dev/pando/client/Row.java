package dev.pando.client;

import java.util.OptionalLong;

/**
 * A row of a scan.
 *
 * @param key the key
 * @param value the value; empty if the scan left values out
 * @param version the version of the record
 * @param expiresAtMillis Unix time in ms at which it expires; 0 = never
 * @param removed with {@link ScanOptions#since}: the record existed then, and does not exist now
 * @param valueBytes with {@link ScanOptions#sizesOnly}: the size of the value
 */
public record Row(byte[] key, byte[] value, long version, long expiresAtMillis, boolean removed,
    OptionalLong valueBytes) {
  /** The key as UTF-8 text. */
  public String keyAsString() {
    return Bytes.text(key);
  }

  /** The value as UTF-8 text. */
  public String valueAsString() {
    return Bytes.text(value);
  }

  @Override
  public String toString() {
    return "Row[" + keyAsString() + ", " + value.length + " bytes, version=" + version + "]";
  }

  static Row of(dev.pando.api.Row row) {
    return new Row(Bytes.copy(row.key), Bytes.copy(row.value), row.version, row.expires_at_ms, row.removed,
        row.isSetValue_bytes() ? OptionalLong.of(row.value_bytes) : OptionalLong.empty());
  }
}
