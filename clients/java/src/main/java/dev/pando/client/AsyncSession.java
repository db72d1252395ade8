package dev.pando.client;

import java.util.concurrent.CompletableFuture;

/**
 * As {@link Session}, with futures. It has one call at a time: another one is sent when those before it have ended. One
 * that is cancelled ends when its answer has come or its time is over; the time of a call begins with its turn.
 */
public final class AsyncSession extends KvAsyncCommands {
  private final PandoAsyncClient client;
  private final Carrier.OfSession carrier;
  /** Completes, never with an error, when the last call has ended. */
  private CompletableFuture<Void> last = CompletableFuture.completedFuture(null);

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
    CompletableFuture<T> result = new CompletableFuture<>();
    last = last.thenCompose(ignored -> {
      if (result.isDone()) return CompletableFuture.completedFuture(null);  // cancelled before its turn
      // The caller can cancel only the result: the next call must not begin before this one has ended, or the session
      // could take an older token for a newer one.
      return begin(call).handle((value, error) -> {
        if (error == null) {
          result.complete(value);
        } else {
          result.completeExceptionally(error);
        }
        return null;
      });
    });
    return result;
  }

  private <T> CompletableFuture<T> begin(Call<T> call) {
    try {
      return client.executeAs(carrier, call);
    } catch (RuntimeException e) {
      return CompletableFuture.failedFuture(e);
    }
  }

  @Override
  PandoAsyncClient client() {
    return client;
  }
}
