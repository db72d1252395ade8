package dev.pando.client;

import java.net.InetSocketAddress;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * A bounded number of shared connections, of which it opens another one only when all are full. All of it runs on the
 * event loop.
 */
final class SharedPool implements SharedConnection.Listener {
  /** Who wants to send a request. */
  interface Waiter {
    /** False: it does not want to any more. */
    boolean stillWaits();

    void connected(SharedConnection connection);

    void notConnected(PandoException error);
  }

  private final ClientOptions options;
  private final AddressBook addresses;
  private final EventLoop loop;
  private final int size;
  private final List<SharedConnection> connections = new ArrayList<>();
  private final ArrayDeque<Waiter> waiters = new ArrayDeque<>();
  /** Those of `connections` that have not said hello yet, and addresses that are being looked up. */
  private int opening;
  private int lookups;
  private boolean closed;
  private boolean draining;

  SharedPool(ClientOptions options, AddressBook addresses, EventLoop loop, int size) {
    this.options = options;
    this.addresses = addresses;
    this.loop = loop;
    this.size = size;
  }

  /** Gives the waiter a connection, now or later. */
  void enter(Waiter waiter) {
    if (closed) {
      waiter.notConnected(PandoException.closed());
      return;
    }
    waiters.add(waiter);
    drain();
  }

  private void drain() {
    if (draining) return;  // a waiter that was given a connection came back
    draining = true;
    try {
      while (!waiters.isEmpty()) {
        if (!waiters.peek().stillWaits()) {
          waiters.remove();
          continue;
        }
        SharedConnection connection = leastBusy();
        if (connection == null) break;
        waiters.remove().connected(connection);
      }
    } finally {
      draining = false;
    }
    // Each connection that is being opened will take as many as it can.
    long expected = (long) (opening + lookups) * SharedConnection.MOST_IN_FLIGHT;
    if (!closed && waiters.size() > expected && active() < size) open();
  }

  private SharedConnection leastBusy() {
    SharedConnection best = null;
    for (SharedConnection connection : connections) {
      if (connection.takesRequests() && (best == null || connection.inFlight() < best.inFlight())) best = connection;
    }
    return best;
  }

  /** Those that are only finishing what they have do not count. */
  private int active() {
    int count = lookups;
    for (SharedConnection connection : connections) {
      if (!connection.isRetired()) ++count;
    }
    return count;
  }

  private void open() {
    Address address = addresses.choose();
    ++lookups;
    for (SharedConnection connection : List.copyOf(connections)) {
      if (connection.isUseless()) connection.close();
    }
    // Looking up a name may take long, so it is not done on the loop.
    CompletableFuture.supplyAsync(address::resolve, options.callbackExecutor).whenComplete((resolved, error) ->
        loop.execute(() -> lookedUp(address, resolved, error)));
  }

  private void lookedUp(Address address, InetSocketAddress resolved, Throwable error) {
    --lookups;
    if (closed) return;
    if (error != null) {
      failedToOpen(address, TransportException.notSent("cannot look up " + address + ": " + error.getMessage(), error));
      return;
    }
    SharedConnection connection = new SharedConnection(address, loop, this);
    connections.add(connection);
    ++opening;
    connection.open(resolved, options.clientName, options.connectTimeout.toNanos());
  }

  private void failedToOpen(Address address, PandoException error) {
    addresses.failed(address);
    if (error.retryable() && addresses.hasFresh() && !waiters.isEmpty()) {
      open();
      return;
    }
    if (leastBusy() != null || opening + lookups > 0) {
      drain();
      return;
    }
    List<Waiter> told = new ArrayList<>(waiters);
    waiters.clear();
    for (Waiter waiter : told) {
      waiter.notConnected(PandoException.create(error.code(), error.getMessage(), Applied.NO, error.retryable(),
          error.retryAfterMillis(), error));
    }
  }

  @Override
  public void opened(SharedConnection connection) {
    --opening;
    addresses.worked(connection.address);
    drain();
  }

  @Override
  public void changed(SharedConnection connection) {
    if (!waiters.isEmpty()) drain();
  }

  @Override
  public void closed(SharedConnection connection, PandoException error) {
    connections.remove(connection);
    boolean wasOpen = connection.server() != null;
    if (!wasOpen) --opening;
    if (closed) return;
    if (!wasOpen && error != null) {
      failedToOpen(connection.address, error);
      return;
    }
    if (error instanceof ProtocolException || (error != null && !connection.wasUsed())) {
      addresses.failed(connection.address);
    }
    drain();
  }

  boolean isClosed() {
    return closed;
  }

  /** Closes all connections; their requests are lost. */
  void close() {
    closed = true;
    for (SharedConnection connection : List.copyOf(connections)) connection.close();
    List<Waiter> told = new ArrayList<>(waiters);
    waiters.clear();
    for (Waiter waiter : told) waiter.notConnected(PandoException.closed());
  }
}
