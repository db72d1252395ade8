package dev.pando.client;

import java.time.Duration;
import java.util.function.Function;
import java.util.function.Supplier;
import org.apache.thrift.TBase;

/** A request as it is sent with each try, and how to read its answer. Immutable. */
final class Call<T> {
  enum Kind {
    /** Takes a level for reads. */
    READ,
    /** Takes a level for writes, and a name, so that it is applied once however often it is sent. */
    WRITE,
    /** Takes a level for writes and no name; it does no harm when it is repeated. */
    REPEATABLE_WRITE,
    /** Takes no level, and changes no record. */
    OTHER;

    boolean writes() {
      return this == WRITE || this == REPEATABLE_WRITE;
    }
  }

  final String method;
  final Kind kind;
  final Supplier<? extends TBase<?, ?>> args;
  final Supplier<? extends TBase<?, ?>> result;
  final TBase<?, ?> request;
  private final Function<TBase<?, ?>, T> map;
  /** Null = the client's default. */
  final Level level;
  final Duration maxStaleness;
  final Duration timeout;
  /** It reads a snapshot, or the changes since one. A replica may lack that, so its level is that of the master. */
  final boolean ofSnapshot;
  private final Supplier<? extends Parts<T>> parts;

  private Call(String method, Kind kind, Supplier<? extends TBase<?, ?>> args,
      Supplier<? extends TBase<?, ?>> result, TBase<?, ?> request, Function<TBase<?, ?>, T> map, Level level,
      Duration maxStaleness, Duration timeout, boolean ofSnapshot, Supplier<? extends Parts<T>> parts) {
    this.method = method;
    this.kind = kind;
    this.args = args;
    this.result = result;
    this.request = request;
    this.map = map;
    this.level = level;
    this.maxStaleness = maxStaleness;
    this.timeout = timeout;
    this.ofSnapshot = ofSnapshot;
    this.parts = parts;
  }

  /** `reply` is the class of the reply, from which `map` makes what the caller gets. */
  static <R extends TBase<?, ?>, T> Call<T> of(String method, Kind kind, Supplier<? extends TBase<?, ?>> args,
      Supplier<? extends TBase<?, ?>> result, TBase<?, ?> request, Class<R> reply, Function<R, T> map) {
    return new Call<>(method, kind, args, result, request, answer -> map.apply(reply.cast(answer)), null, null, null,
        false, () -> null);
  }

  /** As the other one, for a request whose reply may be partial. */
  static <T> Call<T> of(String method, Kind kind, Supplier<? extends TBase<?, ?>> args,
      Supplier<? extends TBase<?, ?>> result, TBase<?, ?> request, Supplier<? extends Parts<T>> parts) {
    return new Call<>(method, kind, args, result, request, null, null, null, null, false, parts);
  }

  /** What an invocation of the call keeps of its tries; null if replies are never partial. */
  Parts<T> parts() {
    return parts.get();
  }

  Call<T> with(Level otherLevel, Duration otherStaleness, Duration otherTimeout) {
    return new Call<>(method, kind, args, result, request, map, otherLevel, otherStaleness, otherTimeout, ofSnapshot,
        parts);
  }

  Call<T> ofSnapshot(boolean value) {
    return new Call<>(method, kind, args, result, request, map, level, maxStaleness, timeout, value, parts);
  }

  Call<T> with(ReadOptions options) {
    return with(options.level, options.maxStaleness, options.timeout).ofSnapshot(options.snapshot != null);
  }

  Call<T> with(WriteOptions options) {
    return with(options.level, null, options.timeout);
  }

  Call<T> timeout(Duration other) {
    return with(level, maxStaleness, other);
  }

  T read(TBase<?, ?> reply) {
    return map.apply(reply);
  }
}
