package dev.pando.client;

import dev.pando.api.pandoConstants;

/** Consistency levels. A level for reads with a write is refused, and so is the reverse. */
public enum Level {
  /** {@link #QUORUM} for writes, {@link #LINEARIZABLE} for reads. */
  DEFAULT(pandoConstants.LEVEL_DEFAULT),
  /**
   * Writes: on the master's disk. Seen later; may be lost. Only puts and removes without conditions. The client does not
   * repeat them after a lost answer.
   */
  ONE(pandoConstants.LEVEL_ONE),
  /** Writes: on the disks of a quorum. */
  QUORUM(pandoConstants.LEVEL_QUORUM),
  /** Writes: on the disks of all replicas. */
  ALL(pandoConstants.LEVEL_ALL),
  /** Reads: at the master; they see every write that was acknowledged before the read began. */
  LINEARIZABLE(pandoConstants.LEVEL_LINEARIZABLE),
  /** Reads: at any replica; they see what was acknowledged a given time before the read began. */
  BOUNDED(pandoConstants.LEVEL_BOUNDED),
  /** Reads: at any replica; they see all that the session has seen. The default of a session. */
  SESSION(pandoConstants.LEVEL_SESSION);

  final int code;

  Level(int code) {
    this.code = code;
  }
}
