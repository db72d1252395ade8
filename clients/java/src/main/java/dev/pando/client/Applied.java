package dev.pando.client;

/** Whether a write took effect. For reads it is always {@link #NO}. */
public enum Applied {
  /** The write may have taken effect, or may do so later. */
  UNKNOWN,
  /** The write has not taken effect, and will not. */
  NO,
  /** The write took effect. */
  YES;

  static Applied of(int code) {
    return code == 1 ? NO : code == 2 ? YES : UNKNOWN;
  }
}
