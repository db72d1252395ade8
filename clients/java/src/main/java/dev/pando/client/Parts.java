package dev.pando.client;

import org.apache.thrift.TBase;

/**
 * What is known of a request after some of its tries, if a reply to it may be partial: parts that failed in a way that
 * may pass are asked for again. Belongs to one {@link Invocation}.
 */
interface Parts<T> {
  /** What the next try asks for. */
  TBase<?, ?> request();

  /**
   * Takes the reply to a try. Throws the error for which there is to be another one.
   *
   * @param named whether the try had a name, so that it may be repeated whatever it did
   * @param lost an earlier try may have taken effect, and its answer was lost
   */
  T take(TBase<?, ?> reply, boolean named, boolean lost);

  /** What the call returns although it ends with this error; null if it must fail. */
  T settle(PandoException error, boolean lost);

  /** Whether some part has taken effect, or may have. */
  boolean begun();

  /** Whether the outcome of some part is unknown, by what the replies said. */
  boolean anyUnknown();
}
