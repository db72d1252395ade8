package dev.pando.client;

import java.net.InetSocketAddress;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;

/**
 * A bounded number of shared connections, of which it opens another one only when all are full, and one more for each
 * address to which an answer has sent a call. All of it runs on the event loop.
 */
final class SharedPool implements SharedConnection.Listener {
  /** Who wants to send a request. */
  interface Waiter {
    /** Where the connection must lead; null = anywhere. The same while it waits. */
    Address target();

    /** False: it does not want to any more. */
    boolean stillWaits();

    void connected(SharedConnection connection);

    void notConnected(PandoException error);
  }

  /** Those that wait for a connection to the same address, or for any; and how many are being opened for them. */
  private static final class Queue {
    final Address target;
    final ArrayDeque<Waiter> waiters = new ArrayDeque<>();
    int opening;

    Queue(Address target) {
      this.target = target;
    }

    boolean takes(SharedConnection connection) {
      return target == null || target.equals(connection.address);
    }
  }

  private final ClientOptions options;
  private final AddressBook addresses;
  private final EventLoop loop;
  private final int size;
  private final List<SharedConnection> connections = new ArrayList<>();
  private final Queue anywhere = new Queue(null);
  /** Of those that waited for an address, at least once. There are no more than addresses. */
  private final Map<Address, Queue> queues = new HashMap<>();
  /** Those of `connections` that have not said hello yet, and for whom they are opened. */
  private final Map<SharedConnection, Queue> opening = new HashMap<>();
  private int lookups;
  private boolean closed;
  private boolean draining;
  private boolean drainAgain;

  SharedPool(ClientOptions options, AddressBook addresses, EventLoop loop, int size) {
    this.options = options;
    this.addresses = addresses;
    this.loop = loop;
    this.size = size;
  }

  AddressBook addresses() {
    return addresses;
  }

  /** Gives the waiter a connection, now or later. */
  void enter(Waiter waiter) {
    if (closed) {
      waiter.notConnected(PandoException.closed());
      return;
    }
    Address target = waiter.target();
    (target == null ? anywhere : queues.computeIfAbsent(target, Queue::new)).waiters.add(waiter);
    drain();
  }

  private List<Queue> allQueues() {
    if (queues.isEmpty()) return List.of(anywhere);
    List<Queue> all = new ArrayList<>(queues.values());
    all.add(anywhere);
    return all;
  }

  private void drain() {
    drainAgain = true;
    if (draining) return;  // a waiter that was given a connection came back
    draining = true;
    try {
      while (drainAgain) {
        drainAgain = false;
        for (Queue queue : allQueues()) drain(queue);
      }
    } finally {
      draining = false;
    }
    for (Queue queue : allQueues()) {
      // Each connection that is being opened will take as many as it can.
      long expected = (long) queue.opening * SharedConnection.MOST_IN_FLIGHT;
      if (!closed && queue.waiters.size() > expected && mayOpen(queue)) open(queue);
    }
  }

  private void drain(Queue queue) {
    ArrayDeque<Waiter> waiters = queue.waiters;
    while (!waiters.isEmpty()) {
      if (!waiters.peek().stillWaits()) {
        waiters.remove();
        continue;
      }
      SharedConnection connection = leastBusy(queue);
      if (connection == null) break;
      waiters.remove().connected(connection);
    }
  }

  /** One whose address has failed lately only if there is no other. */
  private SharedConnection leastBusy(Queue queue) {
    SharedConnection best = null;
    boolean bestAvoided = false;
    for (SharedConnection connection : connections) {
      if (!connection.takesRequests() || !queue.takes(connection)) continue;
      boolean avoided = addresses.avoids(connection.address);
      if (best == null || (bestAvoided && !avoided)
          || (bestAvoided == avoided && connection.inFlight() < best.inFlight())) {
        best = connection;
        bestAvoided = avoided;
      }
    }
    return best;
  }

  private boolean mayOpen(Queue queue) {
    return active() < size || (queue.target != null && !hasConnection(queue));
  }

  /** There is one that calls of the queue may wait for, or there will be. */
  private boolean hasConnection(Queue queue) {
    return queue.opening > 0
        || connections.stream().anyMatch(connection -> !connection.isRetired() && queue.takes(connection));
  }

  /** Those that are only finishing what they have do not count. */
  private int active() {
    int count = lookups;
    for (SharedConnection connection : connections) {
      if (!connection.isRetired()) ++count;
    }
    return count;
  }

  private void open(Queue queue) {
    Address address = queue.target != null ? queue.target : addresses.choose();
    ++lookups;
    ++queue.opening;
    for (SharedConnection connection : List.copyOf(connections)) {
      if (connection.isUseless()) connection.close();
    }
    // Looking up a name may take long, so it is not done on the loop.
    CompletableFuture.supplyAsync(address::resolve, options.callbackExecutor).whenComplete((resolved, error) ->
        loop.execute(() -> lookedUp(queue, address, resolved, error)));
  }

  private void lookedUp(Queue queue, Address address, InetSocketAddress resolved, Throwable error) {
    --lookups;
    if (closed) return;
    if (error != null) {
      --queue.opening;
      failedToOpen(queue, address,
          TransportException.notSent("cannot look up " + address + ": " + error.getMessage(), error));
      return;
    }
    SharedConnection connection = new SharedConnection(address, loop, this);
    connections.add(connection);
    opening.put(connection, queue);
    connection.open(resolved, options.clientName, options.connectTimeout.toNanos());
  }

  private void failedToOpen(Queue queue, Address address, PandoException error) {
    addresses.failed(address);
    if (queue.target == null && error.retryable() && addresses.hasFresh() && !queue.waiters.isEmpty()) {
      open(queue);
      return;
    }
    boolean others = queue.target == null ? leastBusy(queue) != null || queue.opening > 0 : hasConnection(queue);
    if (others) {
      drain();
      return;
    }
    tell(queue, () -> PandoException.create(error.code(), error.getMessage(), Applied.NO, error.retryable(),
        error.retryAfterMillis(), error));
    drain();
  }

  /** Each waiter has an error of its own, because it corrects what that says. */
  private static void tell(Queue queue, Supplier<PandoException> error) {
    List<Waiter> told = new ArrayList<>(queue.waiters);
    queue.waiters.clear();
    for (Waiter waiter : told) waiter.notConnected(error.get());
  }

  @Override
  public void opened(SharedConnection connection) {
    --opening.remove(connection).opening;
    addresses.worked(connection.address);
    drain();
  }

  @Override
  public void changed(SharedConnection connection) {
    for (Queue queue : allQueues()) {
      if (queue.waiters.isEmpty()) continue;
      drain();
      return;
    }
  }

  @Override
  public void closed(SharedConnection connection, PandoException error) {
    connections.remove(connection);
    Queue openedFor = opening.remove(connection);
    if (openedFor != null) --openedFor.opening;
    if (closed) return;
    if (openedFor != null && error != null) {
      failedToOpen(openedFor, connection.address, error);
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
    for (Queue queue : allQueues()) tell(queue, PandoException::closed);
  }
}
