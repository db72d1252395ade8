package dev.pando.client;

import java.time.Duration;

/** Where a watch begins, and how it asks. Immutable; each method returns a changed copy. */
public final class WatchOptions {
  private static final WatchOptions DEFAULTS = new WatchOptions(Bytes.EMPTY, 0, null);

  final byte[] position;
  final long afterVersion;
  final Duration timeout;

  private WatchOptions(byte[] position, long afterVersion, Duration timeout) {
    this.position = position;
    this.afterVersion = afterVersion;
    this.timeout = timeout;
  }

  /** From now on. */
  public static WatchOptions create() {
    return DEFAULTS;
  }

  /** After this version, as in {@link Snapshot#version()}. */
  public WatchOptions afterVersion(long version) {
    return new WatchOptions(Bytes.EMPTY, version, timeout);
  }

  /** Where an earlier watch of the same prefix was. */
  public WatchOptions position(byte[] value) {
    return new WatchOptions(value, 0, timeout);
  }

  /** How long the servers may be unreachable before the watch fails. */
  public WatchOptions timeout(Duration value) {
    return new WatchOptions(position, afterVersion, value);
  }
}
