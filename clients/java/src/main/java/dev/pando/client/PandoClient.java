package dev.pando.client;

import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;

/**
 * A client with blocking calls. It has a pool of connections, made when they are needed, and is meant to be shared by
 * all threads of a program. Thread-safe. Interrupting a thread ends its call.
 *
 * <pre>{@code
 * try (PandoClient client = PandoClient.connect("127.0.0.1:7450")) {
 *   client.put("fruit/apple", "red");
 *   client.get("fruit/apple").ifPresent(apple -> System.out.println(apple.valueAsString()));
 * }
 * }</pre>
 */
public final class PandoClient extends KvCommands implements AutoCloseable {
  private final ClientOptions options;
  private final AddressBook addresses;
  private final ConnectionPool pool;
  private final LanePool lanes = new LanePool();
  private final Carrier.OfClient carrier = new Carrier.OfClient();
  private final Set<ConnectionPool> watches = ConcurrentHashMap.newKeySet();
  private ScheduledThreadPoolExecutor timer;
  private volatile boolean closed;

  private PandoClient(ClientOptions options) {
    this.options = options;
    addresses = new AddressBook(options.addresses);
    pool = new ConnectionPool(options, addresses, options.poolSize);
  }

  /**
   * Makes a client for one or several routers, or for all nodes: {@code host:port}. It connects with its first call. If a
   * node names another one of the addresses as the master of a key, it goes there.
   */
  public static PandoClient connect(String... addresses) {
    return connect(ClientOptions.builder(addresses).build());
  }

  /** Makes a client. It connects with its first call. */
  public static PandoClient connect(ClientOptions options) {
    return new PandoClient(options);
  }

  /** Begins a session. */
  public Session session() {
    return session(Bytes.EMPTY);
  }

  /** Continues a session: its reads see what that one had seen when it gave the token. */
  public Session session(byte[] token) {
    return new Session(this, new Carrier.OfSession(carrier, token));
  }

  /** Asks a server for its version, features and limits. */
  public ServerInfo serverInfo() {
    return ServerInfo.of(execute(Calls.hello(options.clientName, List.of())));
  }

  @Override
  <T> T execute(Call<T> call) {
    return executeAs(carrier, call);
  }

  <T> T executeAs(Carrier who, Call<T> call) {
    if (closed) throw PandoException.closed();
    return pool.run(new Invocation<>(call, options, who, lanes));
  }

  <T> T executeOn(ConnectionPool other, Call<T> call) {
    if (other.isClosed()) throw PandoException.closed();
    return other.run(new Invocation<>(call, options, carrier, lanes));
  }

  @Override
  PandoClient client() {
    return this;
  }

  ClientOptions options() {
    return options;
  }

  /** A pool of one connection, for a watch. */
  ConnectionPool openPool() {
    ConnectionPool one = new ConnectionPool(options, addresses, 1);
    watches.add(one);
    if (closed) one.close();
    return one;
  }

  void forget(ConnectionPool one) {
    watches.remove(one);
  }

  /** It begins with the first snapshot. */
  @Override
  synchronized ScheduledExecutorService timer() {
    if (closed) throw PandoException.closed();
    if (timer == null) timer = Timers.create("pando-snapshots");
    return timer;
  }

  /** Closes all connections. Calls that are under way fail, and so do later ones. */
  @Override
  public void close() {
    closed = true;
    synchronized (this) {
      if (timer != null) timer.shutdownNow();
    }
    pool.close();
    watches.forEach(ConnectionPool::close);
    watches.clear();
  }
}
