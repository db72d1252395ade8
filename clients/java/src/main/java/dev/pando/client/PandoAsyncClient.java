package dev.pando.client;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledThreadPoolExecutor;

/**
 * A client whose calls return futures. Its calls share few connections: each has up to 128 requests in flight, whose
 * replies may overtake each other, and another connection is opened only when all are full. Calls beyond that wait in the
 * client, so bound how many are under way. Thread-safe; meant to be shared by a whole program.
 *
 * <pre>{@code
 * try (PandoAsyncClient client = PandoAsyncClient.connect("127.0.0.1:7450")) {
 *   client.put("fruit/apple", "red").thenCompose(written -> client.get("fruit/apple")).join();
 * }
 * }</pre>
 */
public final class PandoAsyncClient extends KvAsyncCommands implements AutoCloseable {
  private final ClientOptions options;
  private final EventLoop loop;
  private final SharedPool pool;
  private final SharedPool watches;
  private final LanePool lanes = new LanePool();
  private final Carrier.OfClient carrier = new Carrier.OfClient();
  private ScheduledThreadPoolExecutor timer;
  private volatile boolean closed;

  private PandoAsyncClient(ClientOptions options) {
    this.options = options;
    AddressBook addresses = new AddressBook(options.addresses);
    loop = new EventLoop("pando-async", this::closePools);
    pool = new SharedPool(options, addresses, loop, options.poolSize);
    watches = new SharedPool(options, addresses, loop, options.poolSize);
  }

  /**
   * Makes a client for one or several routers, or for all nodes: {@code host:port}. It connects with its first call. If a
   * node names another one of the addresses as the master of a key, it goes there.
   */
  public static PandoAsyncClient connect(String... addresses) {
    return connect(ClientOptions.builder(addresses).build());
  }

  /** Makes a client. It connects with its first call. */
  public static PandoAsyncClient connect(ClientOptions options) {
    return new PandoAsyncClient(options);
  }

  /** Begins a session. */
  public AsyncSession session() {
    return session(Bytes.EMPTY);
  }

  /** Continues a session: its reads see what that one had seen when it gave the token. */
  public AsyncSession session(byte[] token) {
    return new AsyncSession(this, new Carrier.OfSession(carrier, token));
  }

  /** Asks a server for its version, features and limits. */
  public CompletableFuture<ServerInfo> serverInfo() {
    return execute(Calls.hello(options.clientName, List.of(ServerHello.OUT_OF_ORDER))).thenApply(ServerInfo::of);
  }

  @Override
  <T> CompletableFuture<T> execute(Call<T> call) {
    return executeAs(carrier, call);
  }

  <T> CompletableFuture<T> executeAs(Carrier who, Call<T> call) {
    return start(new Invocation<>(call, options, who, lanes), pool);
  }

  /** Watches wait long, so they take no places from other calls. */
  CompletableFuture<WatchPage> executeWatch(Call<WatchPage> call) {
    return start(new Invocation<>(call, options, carrier, lanes), watches);
  }

  private <T> CompletableFuture<T> start(Invocation<T> invocation, SharedPool over) {
    AsyncCall<T> call = new AsyncCall<>(invocation, over, loop, options.callbackExecutor);
    if (closed || !loop.execute(call::start)) {
      invocation.end(null);
      return CompletableFuture.failedFuture(PandoException.closed());
    }
    return call.future();
  }

  @Override
  PandoAsyncClient client() {
    return this;
  }

  ClientOptions options() {
    return options;
  }

  /** The thread that renews snapshots; it begins with the first of them. */
  synchronized ScheduledExecutorService timer() {
    if (closed) throw PandoException.closed();
    if (timer == null) timer = Timers.create("pando-snapshots");
    return timer;
  }

  private void closePools() {
    pool.close();
    watches.close();
  }

  /** Closes all connections. Calls that are under way fail, and so do later ones. Does not wait. */
  @Override
  public void close() {
    closed = true;
    synchronized (this) {
      if (timer != null) timer.shutdownNow();
    }
    loop.stop();
  }
}
