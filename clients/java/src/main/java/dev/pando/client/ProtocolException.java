package dev.pando.client;

/**
 * What came over a connection was not the reply to the request: it had another sequence id or method, or could not be
 * decoded. The client has closed the connection. The outcome of the request is unknown.
 */
public final class ProtocolException extends TransportException {
  private static final long serialVersionUID = 1;

  ProtocolException(String message, Throwable cause) {
    super(new Made(ErrorCode.TRANSPORT, message, Applied.UNKNOWN, true, 0, cause));
  }
}
