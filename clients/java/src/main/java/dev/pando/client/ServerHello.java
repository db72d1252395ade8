package dev.pando.client;

import dev.pando.api.HelloReply;
import java.util.concurrent.TimeUnit;

/** What the server of a connection said in its reply to hello, and when. Immutable. */
final class ServerHello {
  /** Feature of connections on which replies may overtake each other. */
  static final String OUT_OF_ORDER = "out_of_order_replies";

  private static final long CLOCK_GOOD_NANOS = TimeUnit.HOURS.toNanos(1);

  final HelloReply reply;
  final boolean remembersWrites;
  final boolean clocks;
  private final long repliedNanos;

  ServerHello(HelloReply reply) {
    this.reply = reply;
    repliedNanos = System.nanoTime();
    remembersWrites = reply.features != null && reply.features.contains("idempotent_writes");
    clocks = reply.features != null && reply.features.contains("clocks");
  }

  /** The server's clock; 0 = it tells no time. */
  long nowMillis() {
    if (reply.now_ms == 0) return 0;
    return reply.now_ms + TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - repliedNanos);
  }

  /** Clocks drift, so a connection whose hello is this old is replaced by a new one. */
  boolean isOld() {
    return System.nanoTime() - repliedNanos > CLOCK_GOOD_NANOS;
  }

  /** 0 = not known. */
  int maxFrameBytes() {
    return reply.limits == null ? 0 : reply.limits.max_frame_bytes;
  }
}
