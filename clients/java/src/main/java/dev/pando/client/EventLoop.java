package dev.pando.client;

import java.io.IOException;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.util.Iterator;
import java.util.Queue;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.TimeUnit;

/**
 * The one thread on which everything of an asynchronous client runs: I/O, timers, retries. So nothing there needs a lock.
 * Any thread may hand it a task.
 */
final class EventLoop {
  private final Selector selector;
  private final Queue<Runnable> tasks = new ConcurrentLinkedQueue<>();
  private final TreeSet<Timer> timers = new TreeSet<>();
  private final Thread thread;
  private final Runnable atEnd;
  private volatile boolean stopping;
  private long timersMade;

  /** Called when a channel is ready. */
  interface Handler {
    void ready(SelectionKey key);
  }

  /** A task for later. */
  final class Timer implements Comparable<Timer> {
    private final long atNanos;
    private final long number;
    private Runnable task;

    private Timer(long atNanos, Runnable task) {
      this.atNanos = atNanos;
      this.task = task;
      number = timersMade++;
    }

    void cancel() {
      if (task == null) return;
      task = null;
      timers.remove(this);
    }

    @Override
    public int compareTo(Timer other) {
      long difference = atNanos - other.atNanos;
      return difference != 0 ? Long.signum(difference) : Long.compare(number, other.number);
    }
  }

  /** `atEnd` runs on the loop when it stops. */
  EventLoop(String name, Runnable atEnd) {
    this.atEnd = atEnd;
    try {
      selector = Selector.open();
    } catch (IOException e) {
      throw TransportException.notSent("cannot open a selector: " + e.getMessage(), e);
    }
    thread = new Thread(this::run, name);
    thread.setDaemon(true);
    thread.start();
  }

  /** Runs the task on the loop. Returns false if the loop has stopped, or stops, and may never run it. */
  boolean execute(Runnable task) {
    tasks.add(task);
    if (Thread.currentThread() != thread) selector.wakeup();
    boolean neverRuns = stopping && tasks.remove(task);
    return !neverRuns;
  }

  /** On the loop: runs the task there later. */
  Timer schedule(long delayNanos, Runnable task) {
    Timer timer = new Timer(System.nanoTime() + Math.max(0, delayNanos), task);
    timers.add(timer);
    return timer;
  }

  SelectionKey register(SocketChannel channel, int operations, Handler handler) throws IOException {
    return channel.register(selector, operations, handler);
  }

  void stop() {
    stopping = true;
    selector.wakeup();
  }

  private void run() {
    try {
      while (!stopping) {
        runTasks();
        runTimers();
        if (stopping) break;
        select(nextDelayMillis());
        dispatch();
      }
    } catch (IOException e) {
      // The selector is broken, which no connection survives.
    } finally {
      stopping = true;
      atEnd.run();
      runTasks();
      while (!timers.isEmpty()) run(timers.pollFirst());  // retries, which find that all is closed
      closeQuietly();
    }
  }

  private void select(long millis) throws IOException {
    if (millis == 0 || !tasks.isEmpty()) {
      selector.selectNow();
    } else {
      selector.select(millis < 0 ? 0 : millis);
    }
  }

  private void dispatch() {
    Iterator<SelectionKey> ready = selector.selectedKeys().iterator();
    while (ready.hasNext()) {
      SelectionKey key = ready.next();
      ready.remove();
      if (key.isValid()) ((Handler) key.attachment()).ready(key);
    }
  }

  private void runTasks() {
    Runnable task;
    while ((task = tasks.poll()) != null) run(task);
  }

  private void runTimers() {
    long now = System.nanoTime();
    while (!timers.isEmpty() && timers.first().atNanos - now <= 0) {
      run(timers.pollFirst());
    }
  }

  private void run(Timer timer) {
    Runnable task = timer.task;
    timer.task = null;
    if (task != null) run(task);
  }

  /** A bug in one task must not end the others. */
  private void run(Runnable task) {
    try {
      task.run();
    } catch (RuntimeException e) {
      thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
    }
  }

  /** -1 = there is no timer. */
  private long nextDelayMillis() {
    if (timers.isEmpty()) return -1;
    long nanos = timers.first().atNanos - System.nanoTime();
    return nanos <= 0 ? 0 : TimeUnit.NANOSECONDS.toMillis(nanos) + 1;
  }

  private void closeQuietly() {
    try {
      selector.close();
    } catch (IOException e) {
      // There is nothing left to do with it.
    }
  }
}
