package dev.pando.client;

import java.nio.ByteBuffer;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;

/** A bounded number of connections, and the tries of calls over them. Thread-safe. */
final class ConnectionPool implements AutoCloseable {
  private final ClientOptions options;
  private final AddressBook addresses;
  private final Semaphore slots;
  private final ConcurrentLinkedDeque<Connection> idle = new ConcurrentLinkedDeque<>();
  private final Set<Connection> all = ConcurrentHashMap.newKeySet();
  private volatile boolean closed;

  ConnectionPool(ClientOptions options, AddressBook addresses, int size) {
    this.options = options;
    this.addresses = addresses;
    slots = new Semaphore(size, true);
  }

  /** Tries until the call succeeds, fails for good, or its time is over. */
  <T> T run(Invocation<T> invocation) {
    T result = null;
    try {
      while (result == null) {
        Attempt attempt = new Attempt();
        try {
          result = tryOnce(invocation, attempt);
        } catch (PandoException e) {
          if (closed) throw invocation.closed(e.applied() == Applied.UNKNOWN);
          pause(invocation.failed(e, attempt.reused), invocation);
        }
      }
      return result;
    } catch (PandoException e) {
      throw e;
    } catch (RuntimeException | Error e) {
      invocation.outcomeUnknown();
      throw e;
    } finally {
      invocation.end(result);
    }
  }

  /** What a try was made on. */
  private static final class Attempt {
    boolean reused;
  }

  private <T> T tryOnce(Invocation<T> invocation, Attempt attempt) {
    takeSlot(invocation);
    Connection connection = null;
    boolean good = false;
    try {
      invocation.beginTry();
      connection = takeIdle();
      attempt.reused = connection != null;
      if (connection == null) connection = open(invocation.deadlineNanos);
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

  private Connection takeIdle() {
    Connection connection;
    while ((connection = idle.pollFirst()) != null) {
      if (connection.isUsable()) return connection;
      giveBack(connection, false);
    }
    return null;
  }

  /** Tries one address after the other, until one works or there is none that has not just failed. */
  private Connection open(long deadlineNanos) {
    while (true) {
      if (closed) throw PandoException.closed();
      Address address = addresses.choose();
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
      }
    }
  }

  private void giveBack(Connection connection, boolean good) {
    if (good && !closed) {
      idle.addFirst(connection);
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
