/**
 * A client of Pando, a replicated, ordered key-value store: {@link dev.pando.client.PandoClient} with blocking calls, and
 * {@link dev.pando.client.PandoAsyncClient} with futures.
 *
 * <p>Both repeat what fails for reasons that may pass, until the time of the call is over. A write has a name, so it is
 * applied once however often it is sent. What is not found, and a condition that does not hold, are results; everything
 * else is a {@link dev.pando.client.PandoException}.
 */
package dev.pando.client;
