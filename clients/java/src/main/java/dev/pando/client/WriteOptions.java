package dev.pando.client;

import dev.pando.api.pandoConstants;
import java.time.Duration;
import java.time.Instant;

/**
 * Options of writes: conditions, expiry, level and timeout. Immutable; each method returns a changed copy. All
 * conditions that are set must hold; they are compared with the record as it is when the write is applied.
 */
public final class WriteOptions implements Cloneable {
  private static final WriteOptions DEFAULTS = new WriteOptions();

  Long ifVersion;
  byte[] ifValue;
  Boolean ifExists;
  int ttlMode = pandoConstants.TTL_KEEP;
  long ttlMillis;
  long expiresAtMillis;
  boolean returnPrevious;
  Level level;
  Duration timeout;

  private WriteOptions() {}

  /** No condition, an existing expiry is kept, and the client's defaults. */
  public static WriteOptions create() {
    return DEFAULTS;
  }

  private WriteOptions copy() {
    try {
      return (WriteOptions) clone();
    } catch (CloneNotSupportedException e) {
      throw new AssertionError(e);
    }
  }

  /** Only if the record has this version. */
  public WriteOptions ifVersion(long version) {
    WriteOptions copy = copy();
    copy.ifVersion = version;
    return copy;
  }

  /** Only if the record has this value. */
  public WriteOptions ifValue(byte[] value) {
    WriteOptions copy = copy();
    copy.ifValue = value;
    return copy;
  }

  /** Only if the record has this value, as UTF-8. */
  public WriteOptions ifValue(String value) {
    return ifValue(Bytes.utf8(value));
  }

  /** Only if there is a record. */
  public WriteOptions ifExists() {
    return exists(true);
  }

  /** Only if there is no record. */
  public WriteOptions ifAbsent() {
    return exists(false);
  }

  private WriteOptions exists(boolean value) {
    WriteOptions copy = copy();
    copy.ifExists = value;
    return copy;
  }

  /** The record expires so long after the write; positive. */
  public WriteOptions ttl(Duration ttl) {
    WriteOptions copy = copy();
    copy.ttlMode = pandoConstants.TTL_SET;
    copy.ttlMillis = ttl.toMillis();
    copy.expiresAtMillis = 0;
    return copy;
  }

  /** The record expires at this time. If it is past, the record is written, but no read finds it. */
  public WriteOptions expiresAt(Instant time) {
    WriteOptions copy = copy();
    copy.ttlMode = pandoConstants.TTL_SET_ABSOLUTE;
    copy.expiresAtMillis = time.toEpochMilli();
    copy.ttlMillis = 0;
    return copy;
  }

  /** The record never expires. */
  public WriteOptions noExpiry() {
    WriteOptions copy = copy();
    copy.ttlMode = pandoConstants.TTL_CLEAR;
    copy.ttlMillis = copy.expiresAtMillis = 0;
    return copy;
  }

  /** Returns {@link WriteResult#previous()}; for puts and removes. */
  public WriteOptions returnPrevious() {
    WriteOptions copy = copy();
    copy.returnPrevious = true;
    return copy;
  }

  /** Writes at this level. Ops of a batch ignore it: a batch has one level. */
  public WriteOptions level(Level value) {
    WriteOptions copy = copy();
    copy.level = value;
    return copy;
  }

  /** How long the call may take, with all its tries. Ops of a batch ignore it. */
  public WriteOptions timeout(Duration value) {
    WriteOptions copy = copy();
    copy.timeout = value;
    return copy;
  }

  dev.pando.api.Condition condition() {
    if (ifVersion == null && ifValue == null && ifExists == null) return null;
    dev.pando.api.Condition condition = new dev.pando.api.Condition();
    if (ifVersion != null) condition.setVersion(ifVersion);
    if (ifValue != null) condition.setValue(ifValue);
    if (ifExists != null) condition.setExists(ifExists);
    return condition;
  }
}
