package dev.pando.client;

/** What the session has seen was lost, or it is too old to tell. Begin a new session. */
public final class SessionLostException extends PandoException {
  private static final long serialVersionUID = 1;

  SessionLostException(Made made) {
    super(made);
  }
}
