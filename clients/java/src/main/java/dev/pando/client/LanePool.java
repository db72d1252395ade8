package dev.pando.client;

import java.security.SecureRandom;
import java.util.concurrent.ConcurrentLinkedDeque;

/**
 * Lanes are the names under which writes are applied once, however often they are sent. A lane has one write in flight.
 * The lane that was given back last is taken first, so there are about as many as writes in flight. Thread-safe.
 */
final class LanePool {
  private static final int ID_BYTES = 16;
  private static final int MOST_FREE = 1024;

  private final SecureRandom random = new SecureRandom();
  private final ConcurrentLinkedDeque<Lane> free = new ConcurrentLinkedDeque<>();

  /** Owned by one write at a time. */
  static final class Lane {
    final byte[] id;
    long sequence;

    Lane(byte[] id) {
      this.id = id;
    }
  }

  /** The name of one write. */
  static final class Name {
    final Lane lane;
    final long sequence;
    /** By the server's clock, set by the first try; 0 = not sent yet, or the server tells no time. */
    long firstSentMillis;
    boolean sent;

    Name(Lane lane) {
      this.lane = lane;
      sequence = ++lane.sequence;
    }
  }

  Name begin() {
    Lane lane = free.pollFirst();
    if (lane == null) {
      byte[] id = new byte[ID_BYTES];
      random.nextBytes(id);
      lane = new Lane(id);
    }
    return new Name(lane);
  }

  /** A lane whose write ended with an unknown outcome is thrown away: that write may still be on its way. */
  void end(Name name, boolean outcomeKnown) {
    if (outcomeKnown && free.size() < MOST_FREE) free.addFirst(name.lane);
  }
}
