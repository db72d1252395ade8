package dev.pando.client;

/** The changes after the position of a watch are no longer kept. Scan a new snapshot, and watch from its version. */
public final class FeedGoneException extends PandoException {
  private static final long serialVersionUID = 1;

  FeedGoneException(Made made) {
    super(made);
  }
}
