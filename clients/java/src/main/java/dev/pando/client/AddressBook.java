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
