package dev.pando.client;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/** Conversions between text, arrays, and the buffers of generated code. */
final class Bytes {
  static final byte[] EMPTY = new byte[0];

  private Bytes() {}

  static byte[] utf8(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  static String text(byte[] bytes) {
    return new String(bytes, StandardCharsets.UTF_8);
  }

  /**
   * Copies what the buffer shows. Thrift makes fields that are views of the whole reply frame: their array() is the
   * frame, and keeping one would keep all of it in memory.
   */
  static byte[] copy(ByteBuffer buffer) {
    if (buffer == null || !buffer.hasRemaining()) return EMPTY;
    byte[] bytes = new byte[buffer.remaining()];
    buffer.duplicate().get(bytes);
    return bytes;
  }

  /** A field for generated code; null for what is left out. */
  static ByteBuffer wrap(byte[] bytes) {
    return bytes == null || bytes.length == 0 ? null : ByteBuffer.wrap(bytes);
  }
}
