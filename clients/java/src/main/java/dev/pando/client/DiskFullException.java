package dev.pando.client;

/** A disk of the cluster is full. */
public final class DiskFullException extends PandoException {
  private static final long serialVersionUID = 1;

  DiskFullException(Made made) {
    super(made);
  }
}
