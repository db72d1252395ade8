package dev.pando.client;

import java.nio.ByteBuffer;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.RejectedExecutionException;

/** The tries of one call over shared connections. All of it runs on the event loop, and the future completes elsewhere. */
final class AsyncCall<T> implements SharedPool.Waiter, SharedConnection.Handler {
  private final Invocation<T> invocation;
  private final SharedPool pool;
  private final EventLoop loop;
  private final Executor callbacks;
  private final CompletableFuture<T> future = new CompletableFuture<>();
  private SharedConnection connection;
  private int sequence;
  private boolean reused;
  private boolean waiting;
  private boolean ended;
  private EventLoop.Timer timer;

  AsyncCall(Invocation<T> invocation, SharedPool pool, EventLoop loop, Executor callbacks) {
    this.invocation = invocation;
    this.pool = pool;
    this.loop = loop;
    this.callbacks = callbacks;
  }

  CompletableFuture<T> future() {
    return future;
  }

  void start() {
    timer = loop.schedule(Connection.withGrace(invocation.deadlineNanos) - System.nanoTime(), this::timeIsOver);
    tryAgain();
  }

  private void tryAgain() {
    if (ended) return;
    if (future.isDone()) {  // the caller has cancelled it
      end(null);
      return;
    }
    waiting = true;
    pool.enter(this);
  }

  @Override
  public Address target() {
    return invocation.target();
  }

  @Override
  public boolean stillWaits() {
    return waiting && !future.isDone();
  }

  @Override
  public void connected(SharedConnection to) {
    waiting = false;
    invocation.beginTry();
    ByteBuffer frame;
    try {
      sequence = to.nextSequence();
      frame = invocation.encode(sequence, to.server());
    } catch (RuntimeException e) {
      failed(e, false, null);
      return;
    }
    connection = to;
    reused = to.wasUsed();
    to.send(sequence, frame, this);
  }

  @Override
  public void notConnected(PandoException error) {
    waiting = false;
    if (error.code() == ErrorCode.CLOSED) {
      fail(invocation.closed(false));
      return;
    }
    invocation.beginTry();
    failed(error, false, null);
  }

  /** Throws only what condemns the connection, which then tells `lost`. */
  @Override
  public void replied(Codec.Envelope envelope) {
    T result;
    Address from = connection.address;
    try {
      result = invocation.decode(envelope);
    } catch (ProtocolException e) {
      throw e;
    } catch (RuntimeException e) {
      connection = null;
      failed(e, false, from);
      return;
    }
    connection = null;
    succeed(result);
  }

  @Override
  public void lost(TransportException error) {
    connection = null;
    if (ended) return;
    if (pool.isClosed()) {
      fail(invocation.closed(error.applied() == Applied.UNKNOWN));
    } else {
      failed(error, reused, null);
    }
  }

  /** `from`: the server that has answered so; null = none has. */
  private void failed(RuntimeException error, boolean onReused, Address from) {
    if (!(error instanceof PandoException known)) {
      invocation.outcomeUnknown();
      fail(error);
      return;
    }
    invocation.aim(pool.addresses(), known, from);
    try {
      long wait = invocation.failed(known, onReused);
      if (wait == 0) {
        tryAgain();
      } else {
        loop.schedule(wait, this::tryAgain);
      }
    } catch (PandoException e) {
      fail(e);
    }
  }

  private void timeIsOver() {
    if (ended) return;
    if (connection != null) {
      SharedConnection silent = connection;
      connection = null;
      String message = silent.address + " did not answer " + invocation.call.method + " in time";
      boolean sent = silent.abandon(sequence);
      failed(sent ? TransportException.lost(message, null) : TransportException.notSent(message, null), false, null);
    } else {
      fail(invocation.deadline());
    }
  }

  private void succeed(T result) {
    end(result);
    callBack(() -> future.complete(result));
  }

  private void fail(RuntimeException error) {
    T result = error instanceof PandoException known ? invocation.settle(known) : null;
    if (result != null) {
      succeed(result);
      return;
    }
    end(null);
    callBack(() -> future.completeExceptionally(error));
  }

  private void callBack(Runnable completion) {
    try {
      callbacks.execute(completion);
    } catch (RejectedExecutionException e) {
      completion.run();
    }
  }

  private void end(T result) {
    if (ended) return;
    ended = true;
    waiting = false;
    timer.cancel();
    invocation.end(result);
  }
}
