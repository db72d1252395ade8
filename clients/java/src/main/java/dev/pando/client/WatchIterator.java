package dev.pando.client;

import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * The changes of the records whose keys begin with a prefix. One thread uses it; any thread may close it, which ends the
 * iteration. Throws {@link FeedGoneException} if the changes after its position are no longer kept. After another error
 * it can go on.
 */
public final class WatchIterator implements Iterator<Change>, Iterable<Change>, AutoCloseable {
  private static final Duration WAIT = Duration.ofSeconds(20);

  private final PandoClient client;
  private final ConnectionPool pool;
  private final byte[] prefix;
  private final WatchOptions options;
  private final ArrayDeque<Change> changes = new ArrayDeque<>();
  /** Before and after what `changes` had when it came. */
  private byte[] position;
  private byte[] nextPosition;

  WatchIterator(PandoClient client, byte[] prefix, WatchOptions options) {
    this.client = client;
    this.prefix = prefix;
    this.options = options;
    position = nextPosition = options.position;
    pool = client.openPool();
    if (options.position.length == 0 && options.afterVersion == 0) {
      try {
        nextPosition = ask(Duration.ZERO, 0).position();
      } catch (RuntimeException | Error e) {
        close();
        throw e;
      }
    }
  }

  private WatchPage ask(Duration wait, int maxChanges) {
    Duration patience = options.timeout != null ? options.timeout : client.options().timeout;
    long afterVersion = nextPosition.length == 0 ? options.afterVersion : 0;
    return client.executeOn(pool,
        Calls.watch(prefix, nextPosition, afterVersion, wait, maxChanges).timeout(wait.plus(patience)));
  }

  /** Waits for a change. Returns false only after the iterator was closed. */
  @Override
  public boolean hasNext() {
    while (changes.isEmpty()) {
      if (pool.isClosed()) return false;
      try {
        WatchPage page = ask(WAIT, 0);
        position = nextPosition;
        nextPosition = page.position();
        changes.addAll(page.changes());
      } catch (PandoException e) {
        if (!pool.isClosed()) throw e;
      }
    }
    return true;
  }

  @Override
  public Change next() {
    if (!hasNext()) throw new NoSuchElementException("the watch is closed");
    return changes.poll();
  }

  /**
   * Waits for changes for a limited time. The page's position continues exactly after them. Do not mix it with {@link
   * #next()} while {@link #next()} has changes left.
   *
   * @param maxChanges how many at most; 0 = the server's limit
   * @param wait how long to wait if there is none
   */
  public WatchPage poll(int maxChanges, Duration wait) {
    if (!changes.isEmpty()) throw new IllegalStateException("next() still has changes that poll() would skip");
    WatchPage page = ask(wait, maxChanges);
    position = nextPosition = page.position();
    return page;
  }

  /**
   * Where to continue ({@link WatchOptions#position}), also in another process. If changes of one reply are left, it is
   * before the first one of them, so that none is missed. Empty before the first reply, if the watch began at a version.
   */
  public byte[] position() {
    return changes.isEmpty() ? nextPosition : position;
  }

  /** The changes as a stream, which ends when the iterator is closed. */
  public Stream<Change> stream() {
    int traits = Spliterator.ORDERED | Spliterator.NONNULL;
    return StreamSupport.stream(Spliterators.spliteratorUnknownSize(this, traits), false).onClose(this::close);
  }

  /** This iterator, for a for loop. */
  @Override
  public Iterator<Change> iterator() {
    return this;
  }

  @Override
  public void close() {
    pool.close();
    client.forget(pool);
  }
}
