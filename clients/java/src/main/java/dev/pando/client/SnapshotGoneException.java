package dev.pando.client;

/** The snapshot has expired, was released, or was lost in a restart. Open another one. */
public final class SnapshotGoneException extends PandoException {
  private static final long serialVersionUID = 1;

  SnapshotGoneException(Made made) {
    super(made);
  }
}
