package dev.pando.client;

import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * The rows of a scan, in the order of their keys. It asks for the next page when the rows of the last one are used up.
 * Not thread-safe. Servers keep nothing for a scan, so closing it only ends the iteration.
 */
public final class ScanIterator implements Iterator<Row>, Iterable<Row>, AutoCloseable {
  private final KvCommands commands;
  private final KeyRange range;
  private final ScanOptions options;
  private List<Row> rows = List.of();
  private int next;
  private byte[] pageCursor;
  private byte[] nextCursor;
  private boolean ended;
  private long left;
  private int pages;

  ScanIterator(KvCommands commands, KeyRange range, ScanOptions options) {
    this.commands = commands;
    this.range = range;
    this.options = options;
    pageCursor = nextCursor = options.cursor;
    left = options.limit;
    ended = left == 0;
  }

  /** Whether there is another row. May ask the server for a page. */
  @Override
  public boolean hasNext() {
    while (next == rows.size() && !ended) fetch();
    return next < rows.size();
  }

  @Override
  public Row next() {
    if (!hasNext()) throw new NoSuchElementException("the scan has no more rows");
    return rows.get(next++);
  }

  private void fetch() {
    ScanPage page = commands.execute(Calls.scan(range, options, nextCursor, left));
    ++pages;
    pageCursor = nextCursor;
    nextCursor = page.cursor();
    rows = page.rows();
    next = 0;
    ended = !page.hasMore();
    if (options.limit >= 0) {
      left -= rows.size();
      ended |= left <= 0;
    }
  }

  /**
   * Continues the scan ({@link ScanOptions#cursor}), also in another process. After the last row of a page it is exact;
   * within a page it begins with that page's first row again. Empty when the range is exhausted.
   */
  public byte[] cursor() {
    return next == rows.size() ? nextCursor : pageCursor;
  }

  /** The number of requests that succeeded so far. */
  public int pages() {
    return pages;
  }

  /** The remaining rows as a stream. */
  public Stream<Row> stream() {
    int traits = Spliterator.ORDERED | Spliterator.NONNULL;
    return StreamSupport.stream(Spliterators.spliteratorUnknownSize(this, traits), false).onClose(this::close);
  }

  /** This iterator, for a for loop. The rows are there once. */
  @Override
  public Iterator<Row> iterator() {
    return this;
  }

  @Override
  public void close() {
    pageCursor = cursor();
    nextCursor = pageCursor;
    rows = List.of();
    next = 0;
    ended = true;
  }
}
