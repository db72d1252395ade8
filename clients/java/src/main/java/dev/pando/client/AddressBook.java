package dev.pando.client;

import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * Chooses the address of the next connection: at first a random one, then the one that works. One that failed is avoided
 * for a second, unless all have failed. Thread-safe.
 */
final class AddressBook {
  private static final long AVOIDED_NANOS = TimeUnit.SECONDS.toNanos(1);

  private final List<Address> addresses;
  private final long[] failedAtNanos;
  private final boolean[] failed;
  private int current;

  AddressBook(List<Address> addresses) {
    this.addresses = addresses;
    failedAtNanos = new long[addresses.size()];
    failed = new boolean[addresses.size()];
    current = ThreadLocalRandom.current().nextInt(addresses.size());
  }

  synchronized Address choose() {
    long now = System.nanoTime();
    int oldest = current;
    for (int i = 0; i < addresses.size(); ++i) {
      int candidate = (current + i) % addresses.size();
      if (!avoided(candidate, now)) {
        current = candidate;
        return addresses.get(candidate);
      }
      if (failedAtNanos[candidate] - failedAtNanos[oldest] < 0) oldest = candidate;
    }
    current = oldest;
    return addresses.get(oldest);
  }

  /**
   * Where a call goes after the server at `from` has answered with this error; null = anywhere. `before`: where it was
   * told to go. An address that was not given is not followed, because whoever sends it could name any host; nor is the
   * one that is unreachable.
   */
  synchronized Address elsewhere(PandoException error, Address from, Address before, Address unreachable) {
    switch (error.code()) {
      case ErrorCode.NOT_MASTER, ErrorCode.STALE_MAP, ErrorCode.TOO_STALE, ErrorCode.UNAVAILABLE: break;
      default: return before;
    }
    if (error.code() == ErrorCode.UNAVAILABLE) failed(from);
    Address master = find(error.master());
    if (master != null && !master.equals(unreachable)) return master;
    boolean moves = error.code() == ErrorCode.NOT_MASTER || error.code() == ErrorCode.UNAVAILABLE;
    return moves ? after(from) : before;
  }

  private Address find(String text) {
    if (text.isEmpty()) return null;
    try {
      Address address = Address.parse(text);
      return addresses.contains(address) ? address : null;
    } catch (IllegalArgumentException e) {
      return null;
    }
  }

  /** The next one that is not avoided; null if there is none. */
  private Address after(Address from) {
    long now = System.nanoTime();
    int first = addresses.indexOf(from) + 1;
    for (int i = 0; i < addresses.size() - 1; ++i) {
      int candidate = (first + i) % addresses.size();
      if (!avoided(candidate, now)) return addresses.get(candidate);
    }
    return null;
  }

  /** Whether it failed lately. */
  synchronized boolean avoids(Address address) {
    return avoided(addresses.indexOf(address), System.nanoTime());
  }

  /** Whether there is an address that is not avoided now. */
  synchronized boolean hasFresh() {
    long now = System.nanoTime();
    for (int i = 0; i < addresses.size(); ++i) {
      if (!avoided(i, now)) return true;
    }
    return false;
  }

  private boolean avoided(int index, long now) {
    return failed[index] && now - failedAtNanos[index] < AVOIDED_NANOS;
  }

  synchronized void failed(Address address) {
    int index = addresses.indexOf(address);
    failed[index] = true;
    failedAtNanos[index] = System.nanoTime();
  }

  synchronized void worked(Address address) {
    failed[addresses.indexOf(address)] = false;
  }
}
