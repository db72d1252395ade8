package dev.pando.client;

/** Data on a disk of the cluster is damaged. */
public final class CorruptException extends PandoException {
  private static final long serialVersionUID = 1;

  CorruptException(Made made) {
    super(made);
  }
}
