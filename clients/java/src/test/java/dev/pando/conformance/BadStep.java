package dev.pando.conformance;

/** A step that the runner cannot carry out, or whose result is not what it expects. */
final class BadStep extends RuntimeException {
  private static final long serialVersionUID = 1;

  BadStep(String message) {
    super(message);
  }
}
