package dev.pando.client;

import dev.pando.api.pandoConstants;
import java.util.Map;

/**
 * The values of {@link PandoException#code()}, with their names and with what to do about each. Servers may send codes
 * that this client does not know.
 */
public final class ErrorCode {
  /** The request is wrong. */
  public static final int BAD_REQUEST = pandoConstants.BAD_REQUEST;
  /** The request exceeds a limit. */
  public static final int TOO_LARGE = pandoConstants.TOO_LARGE;
  /** The server cannot verify the caller's identity. */
  public static final int UNAUTHENTICATED = pandoConstants.UNAUTHENTICATED;
  /** The caller may not do this. */
  public static final int DENIED = pandoConstants.DENIED;
  /** A node was asked that is not the master. */
  public static final int NOT_MASTER = pandoConstants.NOT_MASTER;
  /** The server does not know yet where the record is. */
  public static final int STALE_MAP = pandoConstants.STALE_MAP;
  /** The partition is moving. */
  public static final int MOVING = pandoConstants.MOVING;
  /** The server has too much to do. */
  public static final int OVERLOADED = pandoConstants.OVERLOADED;
  /** The time of the call is over. */
  public static final int DEADLINE = pandoConstants.DEADLINE;
  /** The partition has no master now, or it is not known any more what came of a write. */
  public static final int UNAVAILABLE = pandoConstants.UNAVAILABLE;
  /** A replica lacks what a read asks for. */
  public static final int TOO_STALE = pandoConstants.TOO_STALE;
  /** The snapshot has ended. */
  public static final int SNAPSHOT_GONE = pandoConstants.SNAPSHOT_GONE;
  /** The cursor or position belongs to another request, or is damaged. */
  public static final int BAD_CURSOR = pandoConstants.BAD_CURSOR;
  /** The session's token belongs to another cluster, or is damaged. */
  public static final int TOKEN_MISMATCH = pandoConstants.TOKEN_MISMATCH;
  /** A disk is full. */
  public static final int DISK_FULL = pandoConstants.DISK_FULL;
  /** Data on a disk is damaged. */
  public static final int CORRUPT = pandoConstants.CORRUPT;
  /** The server has a bug. */
  public static final int INTERNAL = pandoConstants.INTERNAL;
  /** Reserved. */
  public static final int QUOTA_EXCEEDED = pandoConstants.QUOTA_EXCEEDED;
  /** Reserved. */
  public static final int CANCELLED = pandoConstants.CANCELLED;
  /** The changes after the position are no longer kept. */
  public static final int FEED_GONE = pandoConstants.FEED_GONE;
  /** What the session has seen was lost. */
  public static final int SESSION_LOST = pandoConstants.SESSION_LOST;
  /** Not sent by a server: the connection failed, or what came over it was no valid reply. */
  public static final int TRANSPORT = -1;
  /** Not sent by a server: the client was closed, or the calling thread interrupted. */
  public static final int CLOSED = -2;

  private record Entry(String name, String advice) {}

  private static final Map<Integer, Entry> ENTRIES = Map.ofEntries(
      entry(BAD_REQUEST, "BAD_REQUEST", "Correct the request: the message says what is wrong with it."),
      entry(TOO_LARGE, "TOO_LARGE", "Send less at once: serverInfo() has the limits."),
      entry(UNAUTHENTICATED, "UNAUTHENTICATED", "Connect with an identity that the server can verify."),
      entry(DENIED, "DENIED", "Ask the operator for the permission."),
      entry(NOT_MASTER, "NOT_MASTER", "Give the client the addresses of routers, which find the master."),
      entry(STALE_MAP, "STALE_MAP", "Try again: the server is learning a newer map."),
      entry(MOVING, "MOVING", "Try again: the partition is moving to another node."),
      entry(OVERLOADED, "OVERLOADED", "Send fewer requests at once, or give the call more time."),
      entry(DEADLINE, "DEADLINE", "Give the call more time; if it was a write of unknown outcome, read before you repeat it."),
      entry(UNAVAILABLE, "UNAVAILABLE", "Try later; if it lasts, look at the health of the cluster."),
      entry(TOO_STALE, "TOO_STALE", "Try again, or read at Level.LINEARIZABLE."),
      entry(SNAPSHOT_GONE, "SNAPSHOT_GONE", "Open another snapshot, and begin the reading again."),
      entry(BAD_CURSOR, "BAD_CURSOR", "Use a cursor or position with the request that it came from, or begin again."),
      entry(TOKEN_MISMATCH, "TOKEN_MISMATCH", "Use a session's token only with the cluster that issued it."),
      entry(DISK_FULL, "DISK_FULL", "Remove data, or add disk space."),
      entry(CORRUPT, "CORRUPT", "Tell the operator: data on a disk is damaged."),
      entry(INTERNAL, "INTERNAL", "Report this as a bug of the server."),
      entry(QUOTA_EXCEEDED, "QUOTA_EXCEEDED", "Ask the operator for a higher quota."),
      entry(CANCELLED, "CANCELLED", "Send the request again if it is still wanted."),
      entry(FEED_GONE, "FEED_GONE", "Scan a new snapshot, and watch from its version."),
      entry(SESSION_LOST, "SESSION_LOST", "Begin a new session."),
      entry(TRANSPORT, "TRANSPORT", "Check that the servers run and can be reached."),
      entry(CLOSED, "CLOSED", "Use a client that is open."));

  private ErrorCode() {}

  private static Map.Entry<Integer, Entry> entry(int code, String name, String advice) {
    return Map.entry(code, new Entry(name, advice));
  }

  /** Returns the name of a code, as in the interface definition; {@code CODE_99} for one that has no name here. */
  public static String name(int code) {
    Entry entry = ENTRIES.get(code);
    return entry == null ? "CODE_" + code : entry.name;
  }

  /** Returns one sentence that says what to do about an error with this code. */
  public static String advice(int code) {
    Entry entry = ENTRIES.get(code);
    return entry == null ? "Update the client: it does not know this code." : entry.advice;
  }
}
