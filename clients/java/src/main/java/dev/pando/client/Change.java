package dev.pando.client;

/**
 * A change that a watch reports. Values are not sent: read the record, which may have changed again meanwhile.
 *
 * @param key the key
 * @param version the version of the write
 * @param removed the record was removed or has expired
 */
public record Change(byte[] key, long version, boolean removed) {
  /** The key as UTF-8 text. */
  public String keyAsString() {
    return Bytes.text(key);
  }

  @Override
  public String toString() {
    return "Change[" + keyAsString() + ", version=" + version + (removed ? ", removed]" : "]");
  }
}
