package dev.pando.client;

import java.time.Duration;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;

/**
 * Calls that see what earlier ones of the session have seen and written, also when they read at any replica: its reads
 * are at {@link Level#SESSION}, unless they say otherwise. It has one call at a time; others wait, as long as their timeout
 * lets them. It uses the connections of its client and needs no closing. Thread-safe.
 *
 * <p>{@link SessionLostException} says that the cluster can no longer tell what it has seen: begin another one.
 */
public final class Session extends KvCommands {
  private final PandoClient client;
  private final Carrier.OfSession carrier;
  private final ReentrantLock turn = new ReentrantLock(true);

  Session(PandoClient client, Carrier.OfSession carrier) {
    this.client = client;
    this.carrier = carrier;
  }

  /** Tells what the session has seen. {@link PandoClient#session(byte[])} continues it, also in another process. */
  public byte[] token() {
    return carrier.token();
  }

  @Override
  <T> T execute(Call<T> call) {
    Duration timeout = Invocation.timeoutOf(call, client.options());
    long deadlineNanos = System.nanoTime() + timeout.toNanos();
    takeTurn(call, timeout);
    try {
      Duration left = Duration.ofNanos(Math.max(1, deadlineNanos - System.nanoTime()));
      return client.executeAs(carrier, call.timeout(left));
    } finally {
      turn.unlock();
    }
  }

  private void takeTurn(Call<?> call, Duration timeout) {
    try {
      if (turn.tryLock(timeout.toNanos(), TimeUnit.NANOSECONDS)) return;
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw Connection.interrupted(Applied.NO);
    }
    PandoException why = TransportException.notSent("another call of the session was under way", null);
    throw DeadlineException.of(call.method, timeout, 0, Applied.NO, why);
  }

  @Override
  PandoClient client() {
    return client;
  }

  @Override
  ScheduledExecutorService timer() {
    return client.timer();
  }
}
