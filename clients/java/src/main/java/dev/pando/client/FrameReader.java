package dev.pando.client;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.ReadableByteChannel;
import java.nio.channels.WritableByteChannel;
import java.util.Arrays;

/**
 * Cuts what comes over a connection into frames. Its memory grows with what has come, not with what was announced. Java
 * keeps a direct buffer for each thread that is as large as its largest read or write, so both are done in pieces.
 */
final class FrameReader {
  private static final int HEADER_BYTES = 4;
  private static final int INITIAL_BYTES = 16 << 10;
  private static final int KEPT_BYTES = 1 << 20;
  private static final int PIECE_BYTES = 128 << 10;

  /** From begin to end: what has come and was not handed out. */
  private byte[] bytes = new byte[INITIAL_BYTES];
  private int begin;
  private int end;

  /** Reads what is there. Returns the number of bytes; -1 = the connection has ended. */
  int read(ReadableByteChannel channel) throws IOException {
    makeRoom();
    int count = channel.read(ByteBuffer.wrap(bytes, end, Math.min(PIECE_BYTES, bytes.length - end)));
    if (count > 0) end += count;
    return count;
  }

  private void makeRoom() {
    if (begin == end) {
      begin = end = 0;
      if (bytes.length > KEPT_BYTES) bytes = new byte[INITIAL_BYTES];
    }
    if (end < bytes.length) return;
    byte[] room = begin >= bytes.length / 2 ? bytes : Arrays.copyOf(bytes, bytes.length * 2);
    System.arraycopy(bytes, begin, room, 0, end - begin);
    end -= begin;
    begin = 0;
    bytes = room;
  }

  /** Returns the next frame without its length, or null if it has not come yet. */
  byte[] next() {
    if (end - begin < HEADER_BYTES) return null;
    int length = ByteBuffer.wrap(bytes).getInt(begin);
    if (length <= 0 || length > Codec.MAX_FRAME_BYTES) {
      throw new ProtocolException("a frame of " + Integer.toUnsignedString(length) + " bytes was announced", null);
    }
    if (end - begin - HEADER_BYTES < length) return null;
    byte[] frame = Arrays.copyOfRange(bytes, begin + HEADER_BYTES, begin + HEADER_BYTES + length);
    begin += HEADER_BYTES + length;
    return frame;
  }

  boolean isEmpty() {
    return begin == end;
  }

  /** Writes a piece of the frame, as much as the channel takes. Returns the number of bytes. */
  static int write(WritableByteChannel channel, ByteBuffer frame) throws IOException {
    int limit = frame.limit();
    frame.limit(Math.min(limit, frame.position() + PIECE_BYTES));
    try {
      return channel.write(frame);
    } finally {
      frame.limit(limit);
    }
  }
}
