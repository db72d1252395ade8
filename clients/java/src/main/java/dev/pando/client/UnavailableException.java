package dev.pando.client;

/** The cluster cannot serve the request now; it may later. The client has tried for as long as the call had time. */
public class UnavailableException extends PandoException {
  private static final long serialVersionUID = 1;

  UnavailableException(Made made) {
    super(made);
  }
}
