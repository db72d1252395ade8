package dev.pando.client;

/**
 * The time of the call was over before it succeeded. {@link #getCause()} is what the last try failed with, or null if
 * there was none.
 *
 * <p>{@link #applied()} is {@link Applied#NO} if it is certain of every try that it changed nothing.
 */
public final class DeadlineException extends PandoException {
  private static final long serialVersionUID = 1;

  private final int tries;

  DeadlineException(Made made, int tries) {
    super(made);
    this.tries = tries;
  }

  /** How often the client has sent the request, or tried to. */
  public int tries() {
    return tries;
  }

  static DeadlineException of(String method, java.time.Duration timeout, int tries, Applied applied,
      PandoException last) {
    String message = "DEADLINE: " + method + " did not succeed within " + timeout.toMillis() + " ms and " + tries
        + (tries == 1 ? " try" : " tries") + (last == null ? "" : "; the last error: " + last.getMessage());
    return new DeadlineException(new Made(ErrorCode.DEADLINE, message, applied, true, 0, last), tries);
  }
}
