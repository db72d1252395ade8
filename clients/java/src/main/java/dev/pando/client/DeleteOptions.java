package dev.pando.client;

import java.time.Duration;

/** Options of deleteRange. Immutable; each method returns a changed copy. */
public final class DeleteOptions {
  private static final DeleteOptions DEFAULTS = new DeleteOptions(0, 0, null, null);

  final int pageRows;
  final long maxVersion;
  final Level level;
  final Duration timeout;

  private DeleteOptions(int pageRows, long maxVersion, Level level, Duration timeout) {
    this.pageRows = pageRows;
    this.maxVersion = maxVersion;
    this.level = level;
    this.timeout = timeout;
  }

  /** All records, and the client's defaults. */
  public static DeleteOptions create() {
    return DEFAULTS;
  }

  /** The maximum number of records that one request examines; 0 = the server's limit. */
  public DeleteOptions pageRows(int rows) {
    return new DeleteOptions(rows, maxVersion, level, timeout);
  }

  /** Only records with at most this version, as in {@link Snapshot#version()}: what is written later survives. */
  public DeleteOptions maxVersion(long version) {
    return new DeleteOptions(pageRows, version, level, timeout);
  }

  /** Writes at this level. */
  public DeleteOptions level(Level value) {
    return new DeleteOptions(pageRows, maxVersion, value, timeout);
  }

  /** How long each request may take, with all its tries. */
  public DeleteOptions timeout(Duration value) {
    return new DeleteOptions(pageRows, maxVersion, level, value);
  }
}
