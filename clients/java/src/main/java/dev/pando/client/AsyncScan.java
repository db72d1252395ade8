package dev.pando.client;

import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/** A scan page by page. One page is asked for at a time. Servers keep nothing for a scan, so it needs no closing. */
public final class AsyncScan {
  private final KvAsyncCommands commands;
  private final KeyRange range;
  private final ScanOptions options;
  private volatile byte[] cursor;
  private volatile boolean ended;
  private volatile int pages;
  private long left;

  AsyncScan(KvAsyncCommands commands, KeyRange range, ScanOptions options) {
    this.commands = commands;
    this.range = range;
    this.options = options;
    cursor = options.cursor;
    left = options.limit;
    ended = left == 0;
  }

  /** Whether the range, or the limit of the options, may have more rows. */
  public boolean hasNext() {
    return !ended;
  }

  /** Asks for the next page. Call it only when the future of the last one has completed, and {@link #hasNext()}. */
  public CompletableFuture<ScanPage> nextPage() {
    if (ended) throw new IllegalStateException("the scan has no more pages");
    return commands.execute(Calls.scan(range, options, cursor, left)).thenApply(this::took);
  }

  private ScanPage took(ScanPage page) {
    cursor = page.cursor();
    ++pages;
    left -= page.rows().size();
    ended = !page.hasMore() || (options.limit >= 0 && left <= 0);
    return page;
  }

  /** Gives all rows that are left to the consumer, in order; completes after the last one. */
  public CompletableFuture<Void> forEach(Consumer<? super Row> consumer) {
    if (ended) return CompletableFuture.completedFuture(null);
    return nextPage().thenCompose(page -> {
      page.rows().forEach(consumer);
      return forEach(consumer);
    });
  }

  /** Continues the scan after the last page ({@link ScanOptions#cursor}). Empty when the range is exhausted. */
  public byte[] cursor() {
    return cursor;
  }

  /** The number of requests that succeeded so far. */
  public int pages() {
    return pages;
  }
}
