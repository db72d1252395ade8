package dev.pando.client;

/** The request is wrong or too large; its cursor or token does not fit it. Sending it again does not help. */
public final class BadRequestException extends PandoException {
  private static final long serialVersionUID = 1;

  BadRequestException(Made made) {
    super(made);
  }
}
