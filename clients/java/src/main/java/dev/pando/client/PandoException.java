package dev.pando.client;

import dev.pando.api.KvError;

/**
 * What a call failed with. Subclasses are for what callers tell apart; this class itself stands for the rest, such as
 * codes that the client does not know.
 *
 * <p>A condition that does not hold is no error but a result, and so is a record that does not exist.
 */
public class PandoException extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final int code;
  private Applied applied;
  private boolean retryable;
  private final int retryAfterMillis;
  private String serverMessage;
  private String master = "";

  PandoException(int code, String message, Applied applied, boolean retryable, int retryAfterMillis, Throwable cause) {
    super(message, cause);
    this.code = code;
    this.applied = applied;
    this.retryable = retryable;
    this.retryAfterMillis = retryAfterMillis;
  }

  /** The number of the error: one of the constants of {@link ErrorCode}, or one that this client does not know. */
  public int code() {
    return code;
  }

  /** The name of the code, such as {@code OVERLOADED}. */
  public String codeName() {
    return ErrorCode.name(code);
  }

  /** Whether the write took effect. Always {@link Applied#NO} for reads. */
  public Applied applied() {
    return applied;
  }

  /**
   * Whether the same request may succeed later, and sending it again does no harm. So it is false for a write of unknown
   * outcome (but not for {@code deleteRange}).
   */
  public boolean retryable() {
    return retryable;
  }

  /** One sentence: what to do about it. */
  public String advice() {
    return ErrorCode.advice(code);
  }

  /** How long the server asks callers to wait, in ms; 0 = it does not say. */
  int retryAfterMillis() {
    return retryAfterMillis;
  }

  /** The address of the node to ask instead; empty = the server names none. */
  String master() {
    return master;
  }

  /** The message without the name of the code, if it came from a server. */
  String serverMessage() {
    return serverMessage == null ? getMessage() : serverMessage;
  }

  /** Corrects what the last try said of itself by what is known of all tries. Only before the caller has the error. */
  PandoException withApplied(Applied other) {
    applied = other;
    return this;
  }

  /** Another call would have another name, and apply the write twice. Only before the caller has the error. */
  void forbidRepeat() {
    retryable = false;
  }

  static PandoException of(KvError error) {
    String text = error.message == null ? "" : error.message;
    PandoException exception = create(error.code, ErrorCode.name(error.code) + ": " + text, Applied.of(error.applied),
        error.retryable, error.retry_after_ms, null);
    exception.serverMessage = text;
    if (error.master != null) exception.master = error.master;
    return exception;
  }

  static PandoException create(int code, String message, Applied applied, boolean retryable, int retryAfterMillis,
      Throwable cause) {
    Made made = new Made(code, message, applied, retryable, retryAfterMillis, cause);
    switch (code) {
      case ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE, ErrorCode.BAD_CURSOR, ErrorCode.TOKEN_MISMATCH:
        return new BadRequestException(made);
      case ErrorCode.NOT_MASTER, ErrorCode.STALE_MAP, ErrorCode.MOVING, ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE,
          ErrorCode.TOO_STALE:
        return new UnavailableException(made);
      case ErrorCode.TRANSPORT: return new TransportException(made);
      case ErrorCode.DEADLINE: return new DeadlineException(made, 1);
      case ErrorCode.SNAPSHOT_GONE: return new SnapshotGoneException(made);
      case ErrorCode.FEED_GONE: return new FeedGoneException(made);
      case ErrorCode.SESSION_LOST: return new SessionLostException(made);
      case ErrorCode.DISK_FULL: return new DiskFullException(made);
      case ErrorCode.CORRUPT: return new CorruptException(made);
      case ErrorCode.INTERNAL: return new InternalException(made);
      default: return new PandoException(made);
    }
  }

  /** What all constructors of subclasses take. */
  record Made(int code, String message, Applied applied, boolean retryable, int retryAfterMillis, Throwable cause) {}

  PandoException(Made made) {
    this(made.code, made.message, made.applied, made.retryable, made.retryAfterMillis, made.cause);
  }

  static PandoException closed() {
    return create(ErrorCode.CLOSED, "the client is closed", Applied.NO, false, 0, null);
  }
}
