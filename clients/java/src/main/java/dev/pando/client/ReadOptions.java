package dev.pando.client;

import java.time.Duration;

/** Options of reads. Immutable; each method returns a changed copy. */
public final class ReadOptions {
  private static final ReadOptions DEFAULTS = new ReadOptions(null, null, null, null);

  final Level level;
  final Duration maxStaleness;
  final byte[] snapshot;
  final Duration timeout;

  private ReadOptions(Level level, Duration maxStaleness, byte[] snapshot, Duration timeout) {
    this.level = level;
    this.maxStaleness = maxStaleness;
    this.snapshot = snapshot;
    this.timeout = timeout;
  }

  /** The client's defaults. */
  public static ReadOptions create() {
    return DEFAULTS;
  }

  /** Reads at this level. */
  public ReadOptions level(Level value) {
    return new ReadOptions(value, value == Level.BOUNDED ? maxStaleness : null, snapshot, timeout);
  }

  /** Reads at {@link Level#BOUNDED}: it sees what was acknowledged so long before it began. */
  public ReadOptions maxStaleness(Duration value) {
    return new ReadOptions(Level.BOUNDED, value, snapshot, timeout);
  }

  /** Reads an open snapshot; the argument is {@link Snapshot#token()}. */
  public ReadOptions snapshot(byte[] token) {
    return new ReadOptions(level, maxStaleness, token, timeout);
  }

  /** How long the call may take, with all its tries. */
  public ReadOptions timeout(Duration value) {
    return new ReadOptions(level, maxStaleness, snapshot, value);
  }
}
