package dev.pando.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.Executor;
import java.util.concurrent.ForkJoinPool;

/** Options of a client. Made by a {@link Builder}; immutable. */
public final class ClientOptions {
  final List<Address> addresses;
  final Duration timeout;
  final Duration connectTimeout;
  final int poolSize;
  final String clientName;
  final Level readLevel;
  final Level writeLevel;
  final Duration maxStaleness;
  final Executor callbackExecutor;

  private ClientOptions(Builder builder) {
    addresses = builder.addresses.stream().distinct().toList();
    timeout = builder.timeout;
    connectTimeout = builder.connectTimeout;
    poolSize = builder.poolSize;
    clientName = builder.clientName;
    readLevel = builder.readLevel;
    writeLevel = builder.writeLevel;
    maxStaleness = builder.maxStaleness;
    callbackExecutor = builder.callbackExecutor;
  }

  /** Begins options with the addresses of one or several routers, or of a node: {@code host:port}, {@code [::1]:port}. */
  public static Builder builder(String... addresses) {
    return new Builder(List.of(addresses));
  }

  /** Begins options with the addresses of one or several routers, or of a node. */
  public static Builder builder(Collection<String> addresses) {
    return new Builder(addresses);
  }

  /** Collects options. */
  public static final class Builder {
    private final List<Address> addresses = new ArrayList<>();
    private Duration timeout = Duration.ofSeconds(10);
    private Duration connectTimeout = Duration.ofSeconds(2);
    private int poolSize = 8;
    private String clientName = "";
    private Level readLevel = Level.DEFAULT;
    private Level writeLevel = Level.DEFAULT;
    private Duration maxStaleness = Duration.ZERO;
    private Executor callbackExecutor = ForkJoinPool.commonPool();

    private Builder(Collection<String> texts) {
      if (texts.isEmpty()) throw new IllegalArgumentException("a client needs at least one address");
      for (String text : texts) addresses.add(Address.parse(text));
    }

    /** How long a call may take with all its tries, unless it says so itself. Default: 10 s. */
    public Builder timeout(Duration value) {
      timeout = positive(value);
      return this;
    }

    /** How long making one connection may take. Default: 2 s. */
    public Builder connectTimeout(Duration value) {
      connectTimeout = positive(value);
      return this;
    }

    /**
     * The maximum number of connections that calls have. Calls that find none free wait for one. Clients of nodes may have
     * more: as many again that are idle (PandoClient), or one for each node (PandoAsyncClient). Default: 8.
     */
    public Builder poolSize(int value) {
      if (value < 1) throw new IllegalArgumentException("the pool's size is " + value + "; it must be positive");
      poolSize = value;
      return this;
    }

    /** A name for the logs and metrics of servers. */
    public Builder clientName(String value) {
      clientName = Objects.requireNonNull(value);
      return this;
    }

    /** The level of reads that do not give one. */
    public Builder readLevel(Level value) {
      readLevel = Objects.requireNonNull(value);
      return this;
    }

    /** The level of writes that do not give one. */
    public Builder writeLevel(Level value) {
      writeLevel = Objects.requireNonNull(value);
      return this;
    }

    /** The staleness of reads at {@link Level#BOUNDED} that do not give one. */
    public Builder maxStaleness(Duration value) {
      maxStaleness = Objects.requireNonNull(value);
      return this;
    }

    /** Where {@link PandoAsyncClient} completes its futures. Default: the common pool. */
    public Builder callbackExecutor(Executor value) {
      callbackExecutor = Objects.requireNonNull(value);
      return this;
    }

    /** Makes the options. */
    public ClientOptions build() {
      return new ClientOptions(this);
    }

    private static Duration positive(Duration value) {
      if (value.toMillis() <= 0) throw new IllegalArgumentException("the timeout " + value + " is not at least 1 ms");
      return value;
    }
  }
}
