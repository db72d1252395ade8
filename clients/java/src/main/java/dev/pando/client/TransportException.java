package dev.pando.client;

/**
 * No connection could be made, or one failed. If a request had been sent over it, its outcome is unknown. Its code is
 * {@link ErrorCode#TRANSPORT}.
 */
public class TransportException extends UnavailableException {
  private static final long serialVersionUID = 1;

  TransportException(Made made) {
    super(made);
  }

  /** No request, or only a part of one, left this machine. */
  static TransportException notSent(String message, Throwable cause) {
    return new TransportException(new Made(ErrorCode.TRANSPORT, message, Applied.NO, true, 0, cause));
  }

  static TransportException lost(String message, Throwable cause) {
    return new TransportException(new Made(ErrorCode.TRANSPORT, message, Applied.UNKNOWN, true, 0, cause));
  }
}
