package dev.pando.client;

import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledExecutorService;

/** The blocking calls on top of an asynchronous client, so that tests of the one try the other too. */
public final class BlockingOverAsync extends KvCommands {
  private final KvAsyncCommands async;

  public BlockingOverAsync(KvAsyncCommands async) {
    this.async = async;
  }

  /** Waits for the future, and throws what it failed with. */
  public static <T> T join(CompletableFuture<T> future) {
    try {
      return future.join();
    } catch (CompletionException e) {
      if (e.getCause() instanceof RuntimeException cause) throw cause;
      throw e;
    }
  }

  @Override
  <T> T execute(Call<T> call) {
    return join(async.execute(call));
  }

  @Override
  PandoClient client() {
    throw new UnsupportedOperationException("watches are tested with AsyncWatch");
  }

  @Override
  ScheduledExecutorService timer() {
    return async.client().timer();
  }
}
