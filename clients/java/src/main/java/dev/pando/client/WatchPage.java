package dev.pando.client;

import java.util.List;

/**
 * What a watch has found.
 *
 * @param changes the changes; empty if there was none in time
 * @param position continues after them, also in another process
 * @param more further changes can be had at once
 */
public record WatchPage(List<Change> changes, byte[] position, boolean more) {}
