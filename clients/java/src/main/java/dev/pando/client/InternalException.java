package dev.pando.client;

/** The server has a bug. */
public final class InternalException extends PandoException {
  private static final long serialVersionUID = 1;

  InternalException(Made made) {
    super(made);
  }
}
