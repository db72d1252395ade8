package dev.pando.client;

import java.nio.ByteBuffer;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Predicate;

/**
 * A bounded number of connections, and the tries of calls over them: at most `size` are with calls, and as many are idle.
 * Thread-safe.
 */
final class ConnectionPool implements AutoCloseable {
  private final ClientOptions options;
  private final AddressBook addresses;
  private final int size;
  private final Semaphore slots;
  private final ConcurrentLinkedDeque<Connection> idle = new ConcurrentLinkedDeque<>();
  private final Set<Connection> all = ConcurrentHashMap.newKeySet();
  private volatile boolean closed;

  ConnectionPool(ClientOptions options, AddressBook addresses, int size) {
    this.options = options;
    this.addresses = addresses;
    this.size = size;
    slots = new Semaphore(size, true);
  }

  /** Tries until the call succeeds, fails for good, or its time is over. */
  <T> T run(Invocation<T> invocation) {
    T result = null;
    try {
      return result = tryUntilItEnds(invocation);
    } catch (PandoException e) {
      result = invocation.settle(e);
      if (result == null) throw e;
      return result;
    } catch (RuntimeException | Error e) {
      invocation.outcomeUnknown();
      throw e;
    } finally {
      invocation.end(result);
    }
  }

  private <T> T tryUntilItEnds(Invocation<T> invocation) {
    while (true) {
      Attempt attempt = new Attempt();
      try {
        return tryOnce(invocation, attempt);
      } catch (PandoException e) {
        if (closed) throw invocation.closed(e.applied() == Applied.UNKNOWN);
        invocation.aim(addresses, e, attempt.address);
        pause(invocation.failed(e, attempt.reused), invocation);
      }
    }
  }

  /** What a try was made on. */
  private static final class Attempt {
    Address address;
    boolean reused;
  }

  private <T> T tryOnce(Invocation<T> invocation, Attempt attempt) {
    takeSlot(invocation);
    Connection connection = null;
    boolean good = false;
    try {
      invocation.beginTry();
      connection = takeIdle(invocation.target());
      attempt.reused = connection != null;
      if (connection == null) connection = open(invocation.target(), invocation.deadlineNanos);
      attempt.address = connection.address;
      int id = connection.nextSequence();
      good = true;  // still, if the request cannot be encoded
      ByteBuffer frame = invocation.encode(id, connection.server());
      good = false;
      Codec.Envelope envelope = connection.exchange(frame, id, invocation.call.method,
          Connection.withGrace(invocation.deadlineNanos));
      good = true;
      return invocation.decode(envelope);
    } catch (ProtocolException e) {
      good = false;
      if (connection != null) addresses.failed(connection.address);
      throw e;
    } catch (TransportException e) {
      if (connection != null && !attempt.reused) addresses.failed(connection.address);
      throw e;
    } finally {
      if (connection != null) giveBack(connection, good);
      slots.release();
    }
  }

  private void takeSlot(Invocation<?> invocation) {
    try {
      if (slots.tryAcquire(Math.max(0, invocation.remainingNanos()), TimeUnit.NANOSECONDS)) return;
      throw TransportException.notSent("all connections of the pool were in use", null);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw Connection.interrupted(Applied.NO);
    }
  }

  private Connection takeIdle(Address target) {
    if (target != null) return takeIdle(connection -> connection.address.equals(target));
    Connection good = takeIdle(connection -> !addresses.avoids(connection.address));
    return good != null ? good : takeIdle(connection -> true);
  }

  private Connection takeIdle(Predicate<Connection> fits) {
    for (Connection connection : idle) {
      if (!fits.test(connection) || !idle.remove(connection)) continue;
      if (connection.isUsable()) return connection;
      giveBack(connection, false);
    }
    return null;
  }

  /** Tries one address after the other, the target first, until one works or all have just failed. */
  private Connection open(Address target, long deadlineNanos) {
    Address address = target;
    while (true) {
      if (closed) throw PandoException.closed();
      if (address == null) address = addresses.choose();
      try {
        Connection connection =
            Connection.open(address, options.clientName, Connection.after(options.connectTimeout, deadlineNanos));
        addresses.worked(address);
        all.add(connection);
        if (closed) giveBack(connection, false);
        return connection;
      } catch (PandoException e) {
        if (!e.retryable()) throw e;
        addresses.failed(address);
        if (!addresses.hasFresh() || System.nanoTime() - deadlineNanos >= 0) throw e;
        address = null;
      }
    }
  }

  private void giveBack(Connection connection, boolean good) {
    if (good && !closed) {
      idle.addFirst(connection);
      Connection oldest = idle.size() > size ? idle.pollLast() : null;  // calls have moved on to other addresses
      if (oldest != null) giveBack(oldest, false);
      if (!closed) return;
    }
    all.remove(connection);
    connection.close();
  }

  private void pause(long nanos, Invocation<?> invocation) {
    long end = System.nanoTime() + nanos;
    for (long left = nanos; left > 0; left = end - System.nanoTime()) {
      if (closed) throw invocation.closed(false);
      if (Thread.currentThread().isInterrupted()) throw invocation.interrupted();
      LockSupport.parkNanos(Math.min(left, TimeUnit.MILLISECONDS.toNanos(100)));
    }
  }

  boolean isClosed() {
    return closed;
  }

  /** Closes all connections, also those in use: their calls fail. */
  @Override
  public void close() {
    closed = true;
    all.forEach(Connection::close);
    all.clear();
    idle.clear();
  }
}
