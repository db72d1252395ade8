package dev.pando.client;

import java.util.concurrent.CompletableFuture;

/**
 * As {@link Session}, with futures. It has one call at a time: another one is sent when those before it have completed.
 */
public final class AsyncSession extends KvAsyncCommands {
  private final PandoAsyncClient client;
  private final Carrier.OfSession carrier;
  private CompletableFuture<?> last = CompletableFuture.completedFuture(null);

  AsyncSession(PandoAsyncClient client, Carrier.OfSession carrier) {
    this.client = client;
    this.carrier = carrier;
  }

  /** Tells what the session has seen. {@link PandoAsyncClient#session(byte[])} continues it, also in another process. */
  public byte[] token() {
    return carrier.token();
  }

  @Override
  synchronized <T> CompletableFuture<T> execute(Call<T> call) {
    CompletableFuture<T> next = last.handle((result, error) -> null)
        .thenCompose(ignored -> client.executeAs(carrier, call));
    last = next;
    return next;
  }

  @Override
  PandoAsyncClient client() {
    return client;
  }
}
