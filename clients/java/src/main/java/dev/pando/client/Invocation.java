package dev.pando.client;

import dev.pando.api.Context;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * One call of a caller, with all its tries: its deadline, the name of its write, what is known of its outcome, and when
 * to try again. It does no I/O; both clients use it. Used by one thread at a time.
 *
 * <p>Invariant: the lane goes back to the pool only if the outcome of every try is known, or a try succeeded; and for a
 * batch only if the outcome of every op is known too, however the call ends.
 */
final class Invocation<T> {
  /** How much longer than its budget a request is waited for, so that the server's own answer comes first. */
  static final Duration GRACE = Duration.ofMillis(250);

  private static final Duration LONGEST = Duration.ofDays(1);  // so that nothing overflows
  private static final long FIRST_BACKOFF_NANOS = TimeUnit.MILLISECONDS.toNanos(10);
  private static final long LONGEST_BACKOFF_NANOS = TimeUnit.SECONDS.toNanos(1);

  final Call<T> call;
  final Duration timeout;
  final long deadlineNanos;
  private final ClientOptions options;
  private final Carrier carrier;
  private final LanePool lanes;
  private final LanePool.Name name;
  private final Parts<T> parts;
  private long backoffNanos = FIRST_BACKOFF_NANOS;
  private int tries;
  private boolean unknown;
  private boolean mayRepeat = true;
  private boolean repeatedAtOnce;
  private Address target;
  /** A master that was named, and that could not be asked. Whoever names it may not know yet who is the next. */
  private Address unreachable;
  private boolean atOnce;
  private boolean followed;
  private PandoException last;

  Invocation(Call<T> call, ClientOptions options, Carrier carrier, LanePool lanes) {
    this.call = call;
    this.options = options;
    this.carrier = carrier;
    this.lanes = lanes;
    timeout = timeoutOf(call, options);
    deadlineNanos = System.nanoTime() + timeout.toNanos();
    boolean named = call.kind == Call.Kind.WRITE && level() != Level.ONE;
    name = named ? lanes.begin() : null;
    parts = call.parts();
  }

  static Duration timeoutOf(Call<?> call, ClientOptions options) {
    Duration asked = call.timeout != null ? call.timeout : options.timeout;
    return asked.compareTo(LONGEST) > 0 ? LONGEST : asked;
  }

  long remainingNanos() {
    return deadlineNanos - System.nanoTime();
  }

  void beginTry() {
    ++tries;
  }

  /** Where the next try goes; null = to any server. */
  Address target() {
    return target;
  }

  /**
   * Chooses where the next try goes, after one at `from` (null = nowhere) has failed. The address of a master is followed
   * at once, but only once, so that two servers that name each other make no loop.
   */
  void aim(AddressBook addresses, PandoException error, Address from) {
    boolean answered = from != null && !(error instanceof TransportException);
    if (target != null && !(answered && target.equals(from))) unreachable = target;
    target = answered ? addresses.elsewhere(error, from, target, unreachable) : null;
    atOnce = !followed && !error.master().isEmpty() && target != null && !target.equals(from);
    followed |= atOnce;
  }

  /**
   * Makes the frame of a try on a connection to this server. A write at Level.ONE has no name, because servers refuse that; so it
   * is not repeated unless it certainly changed nothing.
   */
  ByteBuffer encode(int sequence, ServerHello server) {
    Context context = new Context();
    long budget = Math.max(1, TimeUnit.NANOSECONDS.toMillis(remainingNanos()));
    context.setBudget_ms((int) Math.min(Integer.MAX_VALUE, budget));
    setLevel(context);
    carrier.fill(context, call, server);
    if (call.kind == Call.Kind.WRITE) setName(context, server);
    ByteBuffer frame = Codec.encode(call, parts == null ? call.request : parts.request(), sequence, context);
    int limit = server.maxFrameBytes();
    if (limit > 0 && frame.remaining() - Integer.BYTES > limit) {
      throw PandoException.create(ErrorCode.TOO_LARGE, "TOO_LARGE: the request has " + (frame.remaining() - Integer.BYTES)
          + " bytes; the server's limit is " + limit + " (max_frame_bytes)", Applied.NO, false, 0, null);
    }
    return frame;
  }

  private void setLevel(Context context) {
    if (call.kind == Call.Kind.OTHER) return;
    Level level = level();
    context.setLevel(level.code);
    if (level == Level.BOUNDED) {
      context.setMax_staleness_ms(Calls.millis(call.maxStaleness != null ? call.maxStaleness : options.maxStaleness));
    }
  }

  private Level level() {
    if (call.level != null) return call.level;
    if (call.ofSnapshot) return Level.DEFAULT;
    return call.kind == Call.Kind.READ ? options.readLevel : options.writeLevel;
  }

  private void setName(Context context, ServerHello server) {
    if (name == null || (!name.sent && !server.remembersWrites)) {
      mayRepeat = false;
      return;
    }
    if (!name.sent) {
      name.sent = true;
      name.firstSentMillis = server.nowMillis();
    }
    context.setClient_id(name.lane.id).setSequence(name.sequence).setFirst_sent_ms(name.firstSentMillis);
  }

  /** Reads the reply to a try. Throws what the try failed with. */
  T decode(Codec.Envelope envelope) {
    Codec.Answer answer = Codec.read(call, envelope);
    carrier.learn(call, answer);
    if (answer.error() != null) throw PandoException.of(answer.error());
    try {
      if (parts == null) return call.read(answer.success());
      return parts.take(answer.success(), name != null && name.sent, unknown);
    } catch (PandoException e) {
      throw e;
    } catch (RuntimeException e) {
      throw new ProtocolException("a reply to " + call.method + " lacks something: " + e, e);
    }
  }

  /**
   * Judges a failed try. Returns how long to wait before the next one, in ns; throws what the call fails with if there
   * is none. With `reused`, the try was on a connection that had waited in the pool and that the server has perhaps
   * closed meanwhile, so the next try comes at once, the first time.
   */
  long failed(PandoException error, boolean reused) {
    if (call.kind.writes()) {
      unknown |= error.applied() == Applied.UNKNOWN;
    } else {
      error.withApplied(Applied.NO);
    }
    last = error;
    if (error.code() == ErrorCode.DEADLINE && !error.retryable()) throw deadline();
    if (!error.retryable()) throw error.withApplied(outcome(error));
    long remaining = remainingNanos();
    if (remaining <= 0) throw deadline();
    if (unknown && !mayRepeat) throw error.withApplied(outcome(error));
    if (atOnce) return 0;
    if (reused && error instanceof TransportException && !repeatedAtOnce) {
      repeatedAtOnce = true;
      return 0;
    }
    long wait = TimeUnit.MILLISECONDS.toNanos(error.retryAfterMillis());
    if (wait <= 0) {
      wait = ThreadLocalRandom.current().nextLong(Math.min(backoffNanos, remaining) + 1);
      backoffNanos = Math.min(2 * backoffNanos, LONGEST_BACKOFF_NANOS);
    }
    if (wait >= remaining) throw deadline();
    return wait;
  }

  private Applied outcome(PandoException error) {
    return unknown && error.applied() == Applied.NO ? Applied.UNKNOWN : error.applied();
  }

  /**
   * What the call returns although it ends with this error; null if it fails with it. Ask before the caller has the
   * error, and before {@link #end}.
   */
  T settle(PandoException error) {
    T result = parts == null ? null : parts.settle(error, unknown);
    if (result != null) return result;
    if (parts != null && parts.begun() && error.applied() == Applied.NO) error.withApplied(Applied.UNKNOWN);
    if (call.kind == Call.Kind.WRITE && error.applied() == Applied.UNKNOWN) error.forbidRepeat();
    return null;
  }

  /** What the call fails with when its time is over. */
  DeadlineException deadline() {
    Applied applied = unknown ? Applied.UNKNOWN : Applied.NO;
    return DeadlineException.of(call.method, timeout, tries, applied, last);
  }

  /** What the call fails with when the client is closed. `sent`: a try is on its way. */
  PandoException closed(boolean sent) {
    boolean open = call.kind.writes() && (unknown || sent);
    unknown |= open;
    return PandoException.closed().withApplied(open ? Applied.UNKNOWN : Applied.NO);
  }

  /** What the call fails with when its thread is interrupted between two tries. */
  PandoException interrupted() {
    return Connection.interrupted(unknown ? Applied.UNKNOWN : Applied.NO);
  }

  /** Something unexpected ended the call: its lane must not be used again. */
  void outcomeUnknown() {
    unknown = true;
  }

  /** The call is over. `result` is null if it failed. */
  void end(T result) {
    if (name == null) return;
    boolean known = (result != null || !unknown) && (parts == null || !parts.anyUnknown());
    lanes.end(name, known);
  }
}
