package dev.pando.client;

import java.util.List;

/**
 * A page of a scan.
 *
 * @param rows its rows; may be empty although there are more
 * @param cursor continues after the last row, also in another process; empty when the range is exhausted
 */
public record ScanPage(List<Row> rows, byte[] cursor) {
  /** Whether the range may have more rows. */
  public boolean hasMore() {
    return cursor.length > 0;
  }
}
