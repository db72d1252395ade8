package dev.pando.client;

import java.util.concurrent.ScheduledThreadPoolExecutor;

/** Threads for what comes later. They keep no program from ending. */
final class Timers {
  private Timers() {}

  static ScheduledThreadPoolExecutor create(String name) {
    ScheduledThreadPoolExecutor timer = new ScheduledThreadPoolExecutor(1, task -> {
      Thread thread = new Thread(task, name);
      thread.setDaemon(true);
      return thread;
    });
    timer.setRemoveOnCancelPolicy(true);
    return timer;
  }
}
