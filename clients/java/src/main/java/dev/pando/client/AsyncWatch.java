package dev.pando.client;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;

/**
 * A watch, one request at a time. It keeps only its position, so it needs no closing: stop asking. Its future fails with
 * {@link FeedGoneException} if the changes after its position are no longer kept.
 */
public final class AsyncWatch {
  private final PandoAsyncClient client;
  private final byte[] prefix;
  private final WatchOptions options;
  private volatile byte[] position;

  AsyncWatch(PandoAsyncClient client, byte[] prefix, WatchOptions options) {
    this.client = client;
    this.prefix = prefix;
    this.options = options;
    position = options.position;
  }

  /**
   * Waits for changes. Call it only when the future of the last call has completed. A watch from now on begins with its
   * first call: call {@code poll(0, Duration.ZERO)} to know when that is.
   *
   * @param maxChanges how many at most; 0 = the server's limit
   * @param wait how long to wait if there is none
   */
  public CompletableFuture<WatchPage> poll(int maxChanges, Duration wait) {
    Duration patience = options.timeout != null ? options.timeout : client.options().timeout;
    long afterVersion = position.length == 0 ? options.afterVersion : 0;
    return client.executeWatch(
        Calls.watch(prefix, position, afterVersion, wait, maxChanges).timeout(wait.plus(patience))).thenApply(page -> {
          position = page.position();
          return page;
        });
  }

  /** Where to continue after the last page ({@link WatchOptions#position}), also in another process. */
  public byte[] position() {
    return position;
  }
}
